"""Runs damaged samples through parsers: only documented errors may come out, quickly and in little memory."""

import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fuzz.mutation import Mutator

MOST_CPU_SECONDS: Final = 1.0
"""For one case. The largest is a megabyte."""
MOST_GROWTH_MB: Final = 300
"""Of the process's peak, over all cases of one parser."""


@dataclass(frozen=True)
class Parser:
    """Something that reads from a stranger.

    `make` gives a damaged sample. `check` reads it, and returns whether it was taken, or refused in the
    documented way. Whatever it raises is a finding, also an AssertionError if what was taken does not encode
    to the same.
    """

    name: str
    make: Callable[[Mutator], Any]
    check: Callable[[Any], bool]
    weight: int = 1


@dataclass(frozen=True)
class Finding:
    """A case that must not be; `seed` makes it again."""

    parser: str
    seed: str
    what: str
    where: str
    sample: str

    @property
    def kind(self) -> tuple[str, str]:
        """What findings of the same cause share."""
        return self.parser, self.where


@dataclass
class Outcome:
    """What came of the cases of one parser."""

    taken: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    slowest: float = 0.0
    growth_mb: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.taken + self.refused + sum(self.kinds.values())

    def note(self, finding: Finding) -> None:
        """Keep the first of each kind, and count the others."""
        if finding.kind not in self.kinds:
            self.findings.append(finding)
        self.kinds[finding.kind] += 1


def run(parser: Parser, seed: int, cases: int) -> Outcome:
    """Return what came of `cases` damaged samples."""
    outcome, peak = Outcome(), _peak_mb()
    for number in range(cases):
        run_case(parser, f"{seed}/{parser.name}/{number}", outcome)
    outcome.growth_mb = _peak_mb() - peak
    if outcome.growth_mb > MOST_GROWTH_MB:
        what = f"{outcome.growth_mb:.0f} MB of memory"
        outcome.note(Finding(parser.name, f"{seed}/{parser.name}/*", what, "memory", ""))
    return outcome


def run_case(parser: Parser, seed: str, outcome: Outcome) -> None:
    """Run one case; the same seed is the same case."""
    sample = parser.make(Mutator(seed))
    began = time.process_time()
    try:
        taken = parser.check(sample)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - all that is not documented is a finding, panics too
        what = f"{type(error).__name__}: {str(error)[:200]}"
        outcome.note(Finding(parser.name, seed, what, _where(error), _shown(sample)))
        return
    spent = time.process_time() - began
    outcome.cpu_seconds += spent
    outcome.slowest = max(outcome.slowest, spent)
    if spent > MOST_CPU_SECONDS:
        what = f"{spent:.1f} s of processor time"
        outcome.note(Finding(parser.name, seed, what, "time", _shown(sample)))
    elif taken:
        outcome.taken += 1
    else:
        outcome.refused += 1


def shares(parsers: Sequence[Parser], cases: int) -> list[tuple[Parser, int]]:
    """Return how many of the cases each parser gets, by weight; together at least `cases`."""
    whole = sum(parser.weight for parser in parsers)
    return [(parser, -(-cases * parser.weight // whole)) for parser in parsers]


def _shown(sample: Any) -> str:
    try:
        return repr(sample)[:400]
    except RecursionError:
        return "(nested too deep to be shown)"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f"{last.filename.rpartition('/')[2]}:{last.lineno}" if last else "?"
    return f"{type(error).__name__} at {place}"


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
