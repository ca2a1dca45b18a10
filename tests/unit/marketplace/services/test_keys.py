"""Keys are made once, checked fast, and refused soon after they are revoked."""

import asyncio

import pytest

from marketplace.domain.accounts import AccountKind
from marketplace.domain.errors import BadRequest, Conflict, Forbidden, NotAuthenticated, NotFound, TooFast
from marketplace.domain.ports.clock import ManualClock
from marketplace.services.keys import MOST_KEYS, KeyRing, KeyTerms
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts, keys
from marketplace.storage.tables import ApiKey
from tallystick.protocol.money import NanoUsd
from tests.support.books import ALICE, BOB, TREASURY, email_account, wallet


@pytest.fixture
def ring(database: Database, clock: ManualClock) -> KeyRing:
    return KeyRing(database, clock)


@pytest.fixture
async def alice(database: Database) -> str:
    return await database.write(wallet)


async def test_a_key_names_its_account_payer_and_terms(ring: KeyRing, alice: str) -> None:
    terms = KeyTerms(name="batch", scope="inference", max_output_price=NanoUsd(300))
    made = await ring.create_key(alice, terms)
    caller = await ring.authenticate(made.secret)
    assert (caller.account_id, caller.key_id, caller.payer) == (alice, made.view.id, ALICE)
    assert (caller.kind, caller.scope, caller.max_output_price) == (AccountKind.WALLET, "inference", 300)


async def test_the_market_pays_on_the_chain_for_an_account_on_credit(
    ring: KeyRing, database: Database
) -> None:
    carol = await database.write(email_account)
    made = await ring.create_key(carol, KeyTerms())
    caller = await ring.authenticate(made.secret)
    assert (caller.payer, caller.kind) == (TREASURY, AccountKind.EMAIL)


async def test_only_a_hash_of_a_key_is_kept(ring: KeyRing, database: Database, alice: str) -> None:
    made = await ring.create_key(alice, KeyTerms())
    assert made.secret.startswith("tsk_")
    assert len(made.secret) == 4 + 43
    row = await database.read(lambda session: keys.find(session, made.view.id))
    assert isinstance(row, ApiKey)
    kept = repr(row.model_dump())
    assert made.secret not in kept
    assert made.secret[12:] not in kept


@pytest.mark.parametrize("raw", ["", "sk-1234", "tsk_", "tsk_" + "x" * 43, "tss_" + "x" * 43, "tsk_\x00é"])
async def test_what_is_no_key_is_not_authenticated(ring: KeyRing, raw: str) -> None:
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(raw)


async def test_a_revoked_key_is_refused_at_once_and_stays_listed(ring: KeyRing, alice: str) -> None:
    made = await ring.create_key(alice, KeyTerms())
    await ring.authenticate(made.secret)
    await ring.revoke_key(alice, made.view.id)
    with pytest.raises(NotAuthenticated, match="revoked"):
        await ring.authenticate(made.secret)
    assert [view.revoked_at is not None for view in await ring.list_keys(alice)] == [True]
    with pytest.raises(NotFound):
        await ring.revoke_key(alice, made.view.id)


async def test_a_key_revoked_by_another_process_is_refused_within_a_second(
    ring: KeyRing, database: Database, clock: ManualClock, alice: str
) -> None:
    elsewhere = KeyRing(database, clock)
    made = await ring.create_key(alice, KeyTerms())
    await ring.authenticate(made.secret)
    await elsewhere.revoke_key(alice, made.view.id)
    clock.advance(1000)
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(made.secret)


async def test_changed_terms_count_for_other_processes_within_a_second(
    ring: KeyRing, database: Database, clock: ManualClock, alice: str
) -> None:
    elsewhere = KeyRing(database, clock)
    made = await ring.create_key(alice, KeyTerms())
    await elsewhere.authenticate(made.secret)
    await ring.change_key(alice, made.view.id, KeyTerms(name="x", max_input_price=NanoUsd(7)))
    assert (await ring.authenticate(made.secret)).max_input_price == 7
    clock.advance(1000)
    assert (await elsewhere.authenticate(made.secret)).max_input_price == 7


async def test_many_callers_at_once_share_one_look_for_changes(
    ring: KeyRing, clock: ManualClock, alice: str
) -> None:
    made = await ring.create_key(alice, KeyTerms())
    clock.advance(1000)
    callers = await asyncio.gather(*[ring.authenticate(made.secret) for _ in range(50)])
    assert {caller.key_id for caller in callers} == {made.view.id}


async def test_another_accounts_key_can_be_neither_seen_nor_changed(
    ring: KeyRing, database: Database, alice: str
) -> None:
    bob = await database.write(lambda session: wallet(session, BOB))
    made = await ring.create_key(alice, KeyTerms())
    with pytest.raises(NotFound):
        await ring.find_key(bob, made.view.id)
    with pytest.raises(NotFound):
        await ring.revoke_key(bob, made.view.id)
    with pytest.raises(NotFound):
        await ring.change_key(bob, made.view.id, KeyTerms(cap=None))
    assert await ring.list_keys(bob) == []


async def test_a_suspended_accounts_key_is_refused(ring: KeyRing, database: Database, alice: str) -> None:
    made = await ring.create_key(alice, KeyTerms())
    await ring.authenticate(made.secret)
    await database.write(lambda session: accounts.change(session, alice, status="suspended"))
    ring.forget_account(alice)
    with pytest.raises(Forbidden):
        await ring.authenticate(made.secret)


async def test_an_inference_key_does_not_manage_the_account(ring: KeyRing, alice: str) -> None:
    made = await ring.create_key(alice, KeyTerms(scope="inference"))
    with pytest.raises(Forbidden, match="only runs jobs"):
        (await ring.authenticate(made.secret)).require_full()


@pytest.mark.parametrize(
    "terms",
    [
        KeyTerms(scope="root"),
        KeyTerms(cap=NanoUsd(-1)),
        KeyTerms(name="x" * 101),
        KeyTerms(cap=NanoUsd(2**63)),
    ],
)
async def test_terms_that_make_no_sense_are_refused(ring: KeyRing, alice: str, terms: KeyTerms) -> None:
    with pytest.raises(BadRequest):
        await ring.create_key(alice, terms)


async def test_an_account_has_a_hundred_usable_keys(ring: KeyRing, alice: str) -> None:
    made = await asyncio.gather(*[ring.create_key(alice, KeyTerms()) for _ in range(MOST_KEYS)])
    with pytest.raises(Conflict):
        await ring.create_key(alice, KeyTerms())
    await ring.revoke_key(alice, made[0].view.id)
    await ring.create_key(alice, KeyTerms())


async def test_nobody_has_no_key(ring: KeyRing) -> None:
    with pytest.raises(NotFound):
        await ring.create_key("nobody", KeyTerms())


async def test_an_unknown_key_is_looked_for_once_and_its_toll_paid_before(ring: KeyRing, alice: str) -> None:
    made = await ring.create_key(alice, KeyTerms())
    tolls: list[str] = []
    for _ in range(2):
        callers = await asyncio.gather(
            *[ring.authenticate(made.secret, lambda: tolls.append("paid")) for _ in range(50)]
        )
        assert {caller.key_id for caller in callers} == {made.view.id}
    assert tolls == ["paid"]

    def refuse() -> None:
        raise TooFast("too many", retry_after=1)

    with pytest.raises(TooFast):
        await ring.authenticate("tsk_" + "A" * 43, refuse)


async def test_a_key_that_is_revoked_while_it_is_looked_for_is_not_remembered(
    ring: KeyRing, alice: str
) -> None:
    made = await ring.create_key(alice, KeyTerms())
    looking = asyncio.create_task(ring.authenticate(made.secret))
    await asyncio.sleep(0)
    await ring.revoke_key(alice, made.view.id)
    await asyncio.gather(looking, return_exceptions=True)
    with pytest.raises(NotAuthenticated, match="revoked"):
        await ring.authenticate(made.secret)
