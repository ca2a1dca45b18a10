"""Whether the contracts' times leave room for what the settings let happen.

a withdrawal is asked for ──── thaw ─────────────────────────────▶ it may leave
the longest job ▸ maturity ▸ the running epoch ▸ settlement lag ──▶ what was used before is charged

the coordinator steps down ── bond release ──────────────────────▶ the bond may leave
maturity ▸ the longest wait and two epochs ▸ settlement lag ──────▶ its last cheque can be cashed
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LedgerTimes:
    """What was fixed when the Ledger was deployed; seconds."""

    genesis: int
    epoch_length: int
    settlement_lag: int
    thaw: int
    bond_release: int


@dataclass(frozen=True, slots=True)
class WorkTimes:
    """What the settings let happen; seconds, but for the epochs."""

    longest_job: float
    maturity_lag: float
    longest_wait_epochs: int


def too_short(ledger: LedgerTimes, work: WorkTimes) -> list[str]:
    """Return what can leave before what it stands for is settled, whatever anybody does; best is nothing."""
    found = []
    if (needed := _settled_after(ledger, work)) >= ledger.thaw:
        found.append(
            f"a deposit may be withdrawn after {ledger.thaw} s, but what it was used for is charged up to "
            f"{needed:.0f} s later (maturity {work.maturity_lag:.0f}, epoch {ledger.epoch_length}, "
            f"settlement {ledger.settlement_lag}): lower TALLYSTICK_MATURITY_LAG_SECONDS to less than "
            f"{max(0.0, ledger.thaw - needed + work.maturity_lag):.0f}"
        )
    waits = (work.longest_wait_epochs + 2) * ledger.epoch_length
    if (needed := work.maturity_lag + waits + ledger.settlement_lag) >= ledger.bond_release:
        found.append(
            f"the bond is free {ledger.bond_release} s after the coordinator stepped down, but its last "
            f"cheque can be cashed up to {needed:.0f} s later (maturity {work.maturity_lag:.0f}, the longest "
            f"wait and two epochs {waits}, settlement {ledger.settlement_lag}): lower "
            "TALLYSTICK_LONGEST_WAIT_EPOCHS"
        )
    return found


def tight(ledger: LedgerTimes, work: WorkTimes) -> list[str]:
    """Return what only the longest possible job would outlast."""
    needed = work.longest_job + _settled_after(ledger, work)
    if needed < ledger.thaw:
        return []
    return [
        f"a job that takes {work.longest_job:.0f} s (TALLYSTICK_HOLD_EXPIRY_SECONDS) is charged up to "
        f"{needed:.0f} s after a withdrawal was asked for, which may leave after {ledger.thaw} s"
    ]


def _settled_after(ledger: LedgerTimes, work: WorkTimes) -> float:
    return work.maturity_lag + ledger.epoch_length + ledger.settlement_lag
