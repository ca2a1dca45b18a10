"""Consents: a wallet's signature under what it has spent, good for a row on the chain."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import BadRequest, Forbidden
from marketplace.services import ledger
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from marketplace.storage.tables import Account, ConsentKey
from tallystick.protocol.eip712 import Domain, consent_digest
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import MAX_NANO, NanoUsd, format_usd


class Consents:
    """Checks and keeps consents for the Ledger of `domain`."""

    def __init__(self, database: Database, domain: Domain) -> None:
        self._database = database
        self._domain = domain

    async def store(self, account_id: str, spent: int, signature: bytes) -> NanoUsd:
        """Keep a consent to have spent `spent` nano-dollars ever; return the highest that is kept.

        Raises BadRequest for a signature that is wrong, or an amount that the account has not spent: nobody
        should sign ahead for what might come. Forbidden for an account without a wallet.
        """
        if not 0 <= spent <= MAX_NANO:
            raise BadRequest(f"{spent} is no amount of nano-dollars", param="spent")

        def work(session: Session) -> NanoUsd:
            account, signers = _signers(session, account_id)
            self._check(to_address(account.address or ""), spent, signature, signers)
            if spent > account.spent:
                raise _ahead(spent, account.spent)
            ledger.store_consent(session, account_id, NanoUsd(spent), signature)
            return NanoUsd(max(account.consented, spent))

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


def _signers(session: Session, account_id: str) -> tuple[Account, set[Address]]:
    """Return the account, and who may sign for it."""
    account = accounts.find(session, account_id)
    if account is None or account.address is None or account.kind != AccountKind.WALLET:
        raise Forbidden("Only an account with a wallet signs consents.", code="no_wallet")
    table = ConsentKey.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    keys = session.scalars(select(table.c.address).where(table.c.account_id == account_id)).all()
    return account, {to_address(account.address), *(to_address(key) for key in keys)}


def _ahead(signed: int, spent: int) -> BadRequest:
    return BadRequest(
        f"the consent is to ${format_usd(NanoUsd(signed))}; this account has spent "
        f"${format_usd(NanoUsd(spent))}. Sign for what was spent, not for what might be",
        code="consent_beyond_spent",
        param="spent",
    )
