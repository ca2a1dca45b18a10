"""Money that is owed does not leave first: the contracts' times against the settings."""

from dataclasses import replace

import pytest

from marketplace.domain.timing import LedgerTimes, WorkTimes, tight, too_short
from marketplace.settings import Settings
from tallystick.deployment import Terms

TERMS = Terms()
LEDGER = LedgerTimes(0, TERMS.epoch_length, TERMS.settlement_lag, TERMS.thaw, TERMS.bond_release)
DEFAULTS = Settings(_env_file=None)  # type: ignore[call-arg]  # pydantic's own
WORK = WorkTimes(DEFAULTS.hold_expiry_seconds, DEFAULTS.maturity_lag_seconds, DEFAULTS.longest_wait_epochs)
DAY = 86_400


def test_the_defaults_fit_each_other() -> None:
    assert too_short(LEDGER, WORK) == []
    assert tight(LEDGER, WORK) == []


@pytest.mark.parametrize(("lag", "is_safe"), [(2 * DAY - 1, True), (2 * DAY, False)])
def test_a_withdrawal_must_not_overtake_its_charge(lag: int, is_safe: bool) -> None:
    found = too_short(LEDGER, replace(WORK, maturity_lag=lag))
    assert (found == []) == is_safe
    assert is_safe or f"less than {2 * DAY}" in found[0]


@pytest.mark.parametrize(("epochs", "is_safe"), [(10, True), (11, False)])
def test_the_bond_must_outlast_the_last_cheque(epochs: int, is_safe: bool) -> None:
    found = too_short(LEDGER, replace(WORK, longest_wait_epochs=epochs))
    assert (found == []) == is_safe
    assert is_safe or "LONGEST_WAIT_EPOCHS" in found[0]


def test_only_the_longest_job_is_worth_a_warning() -> None:
    long = replace(WORK, longest_job=2 * DAY)
    assert too_short(LEDGER, long) == []
    assert "HOLD_EXPIRY" in tight(LEDGER, long)[0]
