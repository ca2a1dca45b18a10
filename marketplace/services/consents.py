"""Consents: a wallet's signature under what it has spent, good for a row on the chain."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import BadRequest, Forbidden
from marketplace.services import ledger
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.tables import ConsentKey
from tallystick.protocol.eip712 import Domain, consent_digest
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import MAX_NANO, NanoUsd


class Consents:
    """Checks and keeps consents for the Ledger of `domain`."""

    def __init__(self, database: Database, domain: Domain) -> None:
        self._database = database
        self._domain = domain

    async def store(self, account_id: str, spent: int, signature: bytes) -> NanoUsd:
        """Keep a consent to have spent `spent` nano-dollars ever; return the highest that is kept.

        Raises BadRequest for an amount or signature that is wrong, Forbidden for an account without a wallet.
        """
        if not 0 <= spent <= MAX_NANO:
            raise BadRequest(f"{spent} is no amount of nano-dollars", param="spent")

        def work(session: Session) -> NanoUsd:
            address, consented, signers = _signers(session, account_id)
            self._check(address, spent, signature, signers)
            ledger.store_consent(session, account_id, NanoUsd(spent), signature)
            return NanoUsd(max(consented, spent))

        return await self._database.write(work)

    def _check(self, address: Address, spent: int, signature: bytes, signers: set[Address]) -> None:
        try:
            signer = recover(consent_digest(self._domain, address, spent), signature)
        except BadSignature as error:
            raise BadRequest(f"the signature is malformed: {error}", param="signature") from error
        if signer not in signers:
            raise BadRequest(
                f"the signature is by {signer}, not by {address} or one of its consent keys; "
                "check the chain id, the Ledger's address and the amount",
                code="wrong_signer",
                param="signature",
            )


def _signers(session: Session, account_id: str) -> tuple[Address, int, set[Address]]:
    """Return the account's address, its consent so far, and who may sign."""
    account = accounts.find(session, account_id)
    if account is None or account.address is None or account.kind != AccountKind.WALLET:
        raise Forbidden("Only an account with a wallet signs consents.", code="no_wallet")
    table = ConsentKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    keys = session.scalars(select(table.c.address).where(table.c.account_id == account_id)).all()
    address = to_address(account.address)
    return address, account.consented, {address, *(to_address(key) for key in keys)}
