"""Accounts are opened and signed in to with things that work once."""

import asyncio
import contextlib
import re
from dataclasses import dataclass, field, replace

import pytest

from marketplace.domain.accounts import TREASURY_ID, AccountKind
from marketplace.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotAuthenticated,
    NotFound,
    TooFast,
    Unavailable,
)
from marketplace.domain.ports.clock import ManualClock
from marketplace.domain.ports.mail import Mail
from marketplace.services import ledger
from marketplace.services.accounts import AccountRules, Accounts
from marketplace.services.keys import KeyRing
from marketplace.storage.database import Database
from marketplace.storage.queries import accounts as rows
from tallystick.protocol.money import NanoUsd
from tests.support.books import ALICE, NOW, TREASURY

RULES = AccountRules(
    open_sign_up=True,
    verify_emails=True,
    signup_credit=NanoUsd(1000),
    session_ms=3_600_000,
    link_ms=600_000,
    address="https://market.example",
)


@dataclass
class Postbox:
    """Keeps the mails."""

    mails: list[Mail] = field(default_factory=list)

    async def send(self, mail: Mail) -> None:
        self.mails.append(mail)

    def token(self) -> str:
        """Return the token in the last mail."""
        found = re.search(r"token=(\S+)", self.mails[-1].text)
        assert found is not None
        return found[1]


@pytest.fixture
def postbox() -> Postbox:
    return Postbox()


@pytest.fixture
def accounts(database: Database, clock: ManualClock, postbox: Postbox) -> Accounts:
    return Accounts(database, clock, postbox, RULES)


async def deposit(database: Database, amount: int) -> None:
    await database.write(lambda session: ledger.credit_deposit(session, TREASURY, NanoUsd(amount), "", NOW))


async def test_a_mailed_link_opens_an_account_with_credit_key_and_session(
    accounts: Accounts, database: Database, clock: ManualClock, postbox: Postbox
) -> None:
    await deposit(database, 1500)
    assert await accounts.sign_up_email(" Carol@Example.COM ") is None
    assert postbox.mails[0].to == "carol@example.com"
    signed_in = await accounts.verify_email(postbox.token())
    assert (signed_in.credit, signed_in.note) == (1000, "")
    assert signed_in.key is not None
    ring = KeyRing(database, clock)
    by_key = await ring.authenticate(signed_in.key.secret)
    by_session = await ring.authenticate(signed_in.session)
    assert by_key.account_id == by_session.account_id == signed_in.account_id
    assert (by_key.kind, by_session.key_id, by_session.scope) == (AccountKind.EMAIL, "", "full")


async def test_a_link_works_once_and_not_for_ever(
    accounts: Accounts, clock: ManualClock, postbox: Postbox
) -> None:
    await accounts.sign_up_email("carol@example.com")
    await accounts.verify_email(postbox.token())
    with pytest.raises(NotAuthenticated):
        await accounts.verify_email(postbox.token())
    await accounts.request_sign_in("carol@example.com")
    await accounts.close()
    clock.advance(RULES.link_ms)
    with pytest.raises(NotAuthenticated):
        await accounts.verify_email(postbox.token())


async def test_a_second_sign_up_signs_in_to_the_same_account_without_another_credit(
    accounts: Accounts, database: Database, postbox: Postbox
) -> None:
    await deposit(database, 5000)
    await accounts.sign_up_email("carol@example.com")
    first = await accounts.verify_email(postbox.token())
    await accounts.sign_up_email("carol@example.com")
    second = await accounts.verify_email(postbox.token())
    assert (second.account_id, second.key, second.credit) == (first.account_id, None, 0)


async def test_two_links_of_one_sign_up_give_one_credit(
    accounts: Accounts, database: Database, postbox: Postbox
) -> None:
    await deposit(database, 5000)
    await accounts.sign_up_email("carol@example.com")
    first = postbox.token()
    await accounts.sign_up_email("carol@example.com")
    given = [(await accounts.verify_email(token)).credit for token in (first, postbox.token())]
    assert given == [1000, 0]


async def test_without_a_deposit_behind_it_an_account_opens_without_credit_and_says_so(
    accounts: Accounts, database: Database, postbox: Postbox
) -> None:
    await deposit(database, 999)
    await accounts.sign_up_email("carol@example.com")
    signed_in = await accounts.verify_email(postbox.token())
    assert signed_in.credit == 0
    assert "promised already" in signed_in.note
    assert signed_in.key is not None


async def test_asking_to_sign_in_tells_nobody_which_accounts_exist(
    accounts: Accounts, postbox: Postbox
) -> None:
    await accounts.request_sign_in("nobody@example.com")
    await accounts.close()
    assert postbox.mails == []


async def test_asking_to_sign_in_waits_for_no_mail_server(
    accounts: Accounts, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.sign_up_email("carol@example.com")
    takes = asyncio.Event()
    sending: list[Mail] = []

    async def slowly(mail: Mail) -> None:
        sending.append(mail)
        await takes.wait()
        raise Unavailable("The mail could not be sent.")

    monkeypatch.setattr(postbox, "send", slowly)
    for email in ("carol@example.com", "nobody@example.com"):
        await accounts.request_sign_in(email)
    takes.set()
    await accounts.close()
    assert [mail.to for mail in sending] == ["carol@example.com"]


@pytest.mark.parametrize("has_account", [True, False])
async def test_nobody_can_fill_a_strangers_mailbox(
    database: Database, clock: ManualClock, postbox: Postbox, has_account: bool
) -> None:
    """Whoever asks is told the same, whether or not there is an account."""
    accounts = Accounts(database, clock, postbox, replace(RULES, mails_per_hour=3, mails_per_day=5))
    asked = ["carol@example.com", "Carol+news@example.com", "carol@EXAMPLE.com"]
    if has_account:
        await accounts.sign_up_email(asked.pop())
    for email in asked:
        await accounts.request_sign_in(email)
    with pytest.raises(TooFast, match=r"at most 3 an hour and 5 a day; try again in 1200 s") as refused:
        await accounts.request_sign_in("carol+more@example.com")
    for ask in (accounts.sign_up_email, accounts.request_sign_in):
        with pytest.raises(TooFast):
            await ask("carol@example.com")
        await ask("dave@example.com")
    clock.advance(refused.value.retry_after * 1000)
    await accounts.request_sign_in("carol@example.com")
    for _ in range(24):
        clock.advance(3_600_000)
        with contextlib.suppress(TooFast):
            await accounts.request_sign_in("carol@example.com")
    await accounts.close()
    sent = [mail for mail in postbox.mails if mail.to == "carol@example.com"]
    assert len(sent) <= (10 if has_account else 0)


async def test_sign_up_cannot_be_farmed_for_credit(
    database: Database, clock: ManualClock, postbox: Postbox
) -> None:
    await deposit(database, 1_000_000)
    rules = replace(RULES, verify_emails=False, daily_credit=NanoUsd(3500))

    async def credit_of(email: str) -> int:
        # A new process each time: what was given is in the books.
        opened = await Accounts(database, clock, postbox, rules).sign_up_email(email)
        assert opened is not None
        assert (opened.credit == 0) == ("credit" in opened.note)
        return opened.credit

    assert [await credit_of(f"{n}@example.com") for n in range(6)] == [1000, 1000, 1000, 0, 0, 0]
    clock.advance(86_400_000)
    assert [await credit_of(f"0+{n}@example.com") for n in range(3)] == [0, 0, 0], "one mailbox, one credit"
    many = [await credit_of(f"later{n}@example.com") for n in range(6)]
    assert many == [1000, 1000, 1000, 0, 0, 0]
    treasury = await database.read(lambda session: rows.find(session, TREASURY_ID))
    assert treasury is not None
    assert treasury.granted == 6000


@pytest.mark.parametrize(
    "email", ["", "carol", "carol@", "@example.com", "a b@example.com", "x" * 300 + "@e.com"]
)
async def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    with pytest.raises(BadRequest):
        await accounts.sign_up_email(email)


async def test_closed_sign_up_is_closed(database: Database, clock: ManualClock, postbox: Postbox) -> None:
    closed = Accounts(database, clock, postbox, replace(RULES, open_sign_up=False))
    with pytest.raises(Forbidden):
        await closed.sign_up_email("carol@example.com")


async def test_where_mails_are_not_verified_an_account_opens_at_once_and_once(
    database: Database, clock: ManualClock, postbox: Postbox
) -> None:
    local = Accounts(database, clock, postbox, replace(RULES, verify_emails=False))
    opened = await local.sign_up_email("carol@example.com")
    assert opened is not None
    assert opened.key is not None
    with pytest.raises(Conflict):
        await local.sign_up_email("CAROL@example.com")
    assert postbox.mails == []


async def test_a_wallet_signs_in_with_a_nonce_once(accounts: Accounts, clock: ManualClock) -> None:
    nonce, expires_at = await accounts.new_nonce()
    first = await accounts.sign_in_wallet(ALICE, nonce)
    assert expires_at > clock.now_ms()
    with pytest.raises(NotAuthenticated):
        await accounts.sign_in_wallet(ALICE, nonce)
    again = await accounts.sign_in_wallet(ALICE, (await accounts.new_nonce())[0])
    assert first.account_id == again.account_id == await accounts.wallet_account(ALICE)


async def test_a_nonce_expires(accounts: Accounts, clock: ManualClock) -> None:
    nonce, expires_at = await accounts.new_nonce()
    clock.advance(expires_at - clock.now_ms())
    with pytest.raises(NotAuthenticated):
        await accounts.sign_in_wallet(ALICE, nonce)


async def test_a_session_ends_by_time_and_by_signing_out(
    accounts: Accounts, database: Database, clock: ManualClock
) -> None:
    ring = KeyRing(database, clock)
    first, second = [await accounts.sign_in_wallet(ALICE, (await accounts.new_nonce())[0]) for _ in range(2)]
    await accounts.sign_out(first.session)
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(first.session)
    clock.advance(RULES.session_ms)
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(second.session)


async def test_a_suspended_account_does_not_sign_in(accounts: Accounts, database: Database) -> None:
    account_id = await accounts.wallet_account(ALICE)
    await database.write(lambda session: rows.change(session, account_id, status="suspended"))
    with pytest.raises(Forbidden):
        await accounts.sign_in_wallet(ALICE, (await accounts.new_nonce())[0])


async def test_what_expired_is_swept_and_what_did_not_stays(
    accounts: Accounts, clock: ManualClock, postbox: Postbox
) -> None:
    await accounts.new_nonce()
    await accounts.sign_up_email("carol@example.com")
    clock.advance(RULES.link_ms)
    nonce, _ = await accounts.new_nonce()
    assert await accounts.sweep() == 2
    await accounts.sign_in_wallet(ALICE, nonce)


async def test_an_account_is_found_by_its_address(accounts: Accounts) -> None:
    await accounts.sign_up_email("carol@example.com")
    assert (await accounts.find_by_email("Carol@example.com")).startswith("acct_")
    with pytest.raises(NotFound):
        await accounts.find_by_email("dave@example.com")
