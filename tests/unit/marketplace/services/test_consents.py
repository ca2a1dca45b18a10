"""A consent counts if the account, or a key that it added, signed it for this Ledger."""

import pytest
from sqlalchemy.orm import Session

from marketplace.domain.errors import BadRequest, Forbidden
from marketplace.services import ledger
from marketplace.services.consents import Consents
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts
from tallystick.protocol.eip712 import Domain, consent_digest
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tests.support.books import email_account, wallet

LEDGER = Domain(chain_id=31337, contract=Address("0x" + "5f" * 20))
OWNER = SigningKey(b"\x02" * 32)
HELPER = SigningKey(b"\x03" * 32)


@pytest.fixture
async def owner(database: Database) -> str:
    """An account that has spent 101 nano-dollars."""

    def work(session: Session) -> str:
        account_id = wallet(session, OWNER.address)
        accounts.change(session, account_id, spent=101)
        return account_id

    return await database.write(work)


def signed(spent: int, key: SigningKey = OWNER, domain: Domain = LEDGER) -> bytes:
    return key.sign_digest(consent_digest(domain, OWNER.address, spent))


async def test_the_highest_consent_is_kept(database: Database, owner: str) -> None:
    consents = Consents(database, LEDGER)
    assert await consents.store(owner, 100, signed(100)) == 100
    assert await consents.store(owner, 99, signed(99)) == 100
    assert await consents.store(owner, 101, signed(101)) == 101


async def test_a_consent_key_signs_once_it_is_added(database: Database, owner: str) -> None:
    consents = Consents(database, LEDGER)
    with pytest.raises(BadRequest, match="consent keys"):
        await consents.store(owner, 100, signed(100, HELPER))
    await database.write(lambda session: ledger.add_consent_key(session, OWNER.address, HELPER.address))
    assert await consents.store(owner, 100, signed(100, HELPER)) == 100


@pytest.mark.parametrize(
    "signature",
    [
        signed(101),
        signed(100, domain=Domain(chain_id=1, contract=LEDGER.contract)),
        bytes(65),
        b"",
        signed(100)[:-1],
    ],
)
async def test_a_signature_for_something_else_is_refused(
    database: Database, owner: str, signature: bytes
) -> None:
    with pytest.raises(BadRequest):
        await Consents(database, LEDGER).store(owner, 100, signature)


async def test_nobody_signs_ahead(database: Database, owner: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await Consents(database, LEDGER).store(owner, 102, signed(102))
    assert refused.value.code == "consent_beyond_spent"


@pytest.mark.parametrize("spent", [-1, 2**63])
async def test_an_impossible_amount_is_refused(database: Database, owner: str, spent: int) -> None:
    with pytest.raises(BadRequest):
        await Consents(database, LEDGER).store(owner, spent, bytes(65))


async def test_an_account_on_credit_signs_nothing(database: Database) -> None:
    carol = await database.write(email_account)
    with pytest.raises(Forbidden):
        await Consents(database, LEDGER).store(carol, 100, signed(100))
