"""The rows of an epoch: laws that hold for any books and any chain."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from marketplace.domain.epochs import (
    NOTHING,
    Creditor,
    Debtor,
    EpochClock,
    Plan,
    RowRules,
    Treasury,
    credit_settled,
    is_due,
    plan_rows,
)
from marketplace.domain.ports.chain import ChainAccount, Consent
from tallystick.protocol.ids import Address
from tallystick.protocol.money import NanoUsd

NOW = 1_700_000_000_000
RULES = RowRules(NanoUsd(100), 10_000)
TREASURY = Address("0x" + "ff" * 20)

amounts = some.integers(0, 1_000)
sinces = some.one_of(some.none(), some.integers(NOW - 20_000, NOW))


def at(index: int) -> Address:
    return Address(f"0x{index:040x}")


@some.composite
def markets(draw: some.DrawFn) -> dict[str, Any]:
    """Debtors, creditors and a treasury whose books and chain do not contradict each other."""
    on_chain: dict[Address, ChainAccount] = {}
    debtors, creditors = [], []
    for index in range(draw(some.integers(0, 6))):
        spent, balance = draw(amounts), draw(amounts)
        right = draw(amounts)
        on_chain[at(index)] = ChainAccount(balance, spent, spent + right, 0)  # type: ignore[arg-type]
        consent = draw(some.one_of(some.none(), amounts.map(lambda most: Consent(NanoUsd(most), bytes(65)))))
        matured = spent + draw(amounts)
        debtors.append(
            Debtor(at(index), at(index), NanoUsd(matured), consent, draw(some.booleans()), draw(sinces))
        )
    for index in range(10, 10 + draw(some.integers(0, 6))):
        earned = draw(amounts)
        on_chain[at(index)] = ChainAccount(0, 0, 0, earned)  # type: ignore[arg-type]
        creditors.append(Creditor(at(index), at(index), NanoUsd(earned + draw(amounts)), draw(sinces)))
    balance, right = draw(amounts), draw(amounts)
    account = ChainAccount(balance, 5, 5 + right, 3)  # type: ignore[arg-type]
    wanted = sum(one.matured - on_chain[one.address].earned for one in creditors)
    treasury = Treasury(
        account_id="treasury",
        address=TREASURY,
        on_chain=account,
        free=NanoUsd(draw(some.integers(-500, 1_000))),
        credit=NanoUsd(draw(amounts)),
        owed=NanoUsd(wanted + draw(amounts)),
    )
    return {"debtors": debtors, "creditors": creditors, "on_chain": on_chain, "treasury": treasury}


def planned(market: dict[str, Any], rules: RowRules = RULES) -> Plan:
    return plan_rows(rules=rules, now_ms=NOW, **market)


@given(markets())
def test_the_pool_is_zero_after_the_last_row_and_never_negative(market: dict[str, Any]) -> None:
    plan = planned(market)
    pool = sum(line.moves for line in plan.charges)
    for line in plan.payouts:
        pool -= line.moves
        assert pool >= 0
    assert pool == 0


@given(markets())
def test_every_row_moves_something_and_no_account_has_two_of_a_kind(market: dict[str, Any]) -> None:
    plan = planned(market)
    for lines in (plan.charges, plan.payouts):
        assert all(line.moves > 0 for line in lines)
        assert len({line.address for line in lines}) == len(lines)


@given(markets())
def test_no_charge_is_beyond_what_matured_the_right_or_the_balance(market: dict[str, Any]) -> None:
    debtors = {one.address: one for one in market["debtors"]}
    for line in planned(market).charges:
        if line.address == TREASURY:
            continue
        debtor, account = debtors[line.address], market["on_chain"][line.address]
        assert line.amount <= debtor.matured
        assert line.moves <= account.balance
        assert line.amount <= max(account.authorized, line.consent.spent if line.consent else 0)
        assert (line.consent is not None) == (line.amount > account.authorized)


@given(markets())
def test_no_operator_is_credited_more_than_it_earned(market: dict[str, Any]) -> None:
    creditors = {one.address: one for one in market["creditors"]}
    plan = planned(market)
    for line in plan.payouts:
        if line.address != TREASURY:
            assert line.amount <= creditors[line.address].matured


@given(markets())
def test_the_treasury_stays_within_its_deposit_and_its_right(market: dict[str, Any]) -> None:
    account = market["treasury"].on_chain
    for line in planned(market).charges:
        if line.address == TREASURY:
            assert line.moves <= account.balance
            assert line.amount <= account.authorized


@given(markets())
def test_what_the_treasury_keeps_covers_the_credit_that_is_not_settled(market: dict[str, Any]) -> None:
    treasury = market["treasury"]
    plan = planned(market)
    advance = sum(line.moves for line in plan.charges if line.address == TREASURY)
    paid = sum(line.moves for line in plan.payouts if line.address != TREASURY)
    settled = credit_settled(treasury.credit, treasury.owed - paid)
    if advance:
        assert treasury.free - advance + settled >= 0


@given(markets())
def test_deferred_and_paid_add_up_to_what_was_due(market: dict[str, Any]) -> None:
    plan = planned(market)
    paid = sum(line.moves for line in plan.payouts if line.address != TREASURY)
    due = sum(
        one.matured - market["on_chain"][one.address].earned
        for one in market["creditors"]
        if is_due(one.matured - market["on_chain"][one.address].earned, one.accruing_since, RULES, NOW)
    )
    assert paid + sum(plan.deferred.values()) == due


@given(markets(), some.randoms())
def test_the_plan_does_not_depend_on_the_order_of_the_books(market: dict[str, Any], random: Any) -> None:
    shuffled = dict(market)
    for party in ("debtors", "creditors"):
        shuffled[party] = random.sample(market[party], len(market[party]))
    assert planned(market) == planned(shuffled)


@given(markets())
def test_a_plan_that_was_carried_out_leaves_no_charge_for_the_same_books(market: dict[str, Any]) -> None:
    plan, on_chain = planned(market), dict(market["on_chain"])
    for line in plan.charges:
        if line.address != TREASURY:
            account = on_chain[line.address]
            on_chain[line.address] = ChainAccount(
                NanoUsd(account.balance - line.moves),
                line.amount,
                max(account.authorized, line.consent.spent if line.consent else NanoUsd(0)),
                account.earned,
            )
    again = planned(market | {"on_chain": on_chain})
    assert [line for line in again.charges if line.address != TREASURY] == []


def test_small_amounts_wait_and_leaving_or_waiting_accounts_do_not() -> None:
    assert not is_due(99, NOW - 9_999, RULES, NOW)
    assert is_due(100, None, RULES, NOW)
    assert is_due(1, NOW - 10_000, RULES, NOW)
    assert is_due(1, None, RULES, NOW, is_leaving=True)
    assert not is_due(0, NOW - 10_000, RULES, NOW, is_leaving=True)


def test_an_account_of_the_books_that_the_chain_does_not_know_gets_no_charge() -> None:
    debtor = Debtor("a", at(1), NanoUsd(500), Consent(NanoUsd(500), bytes(65)), True, None)
    treasury = Treasury("treasury", TREASURY, NOTHING, NanoUsd(0), NanoUsd(0), NanoUsd(0))
    plan = plan_rows([debtor], [], {}, treasury, RULES, NOW)
    assert plan.is_empty
    assert plan.short == {at(1): 500}


@given(some.integers(1, 10**6), some.integers(0, 10**9), some.integers(0, 50))
def test_work_is_promised_for_an_epoch_that_is_not_over(length: int, elapsed: int, wait: int) -> None:
    clock = EpochClock(1_700_000_000, length)
    now = clock.genesis + elapsed
    assert clock.end_of(clock.at(now)) - length <= now < clock.end_of(clock.at(now))
    assert clock.end_of(clock.promised(now, wait)) > now + wait * length
    last = clock.last_ended(now)
    assert last is None or clock.end_of(last) <= now
