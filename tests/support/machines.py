"""How long state machines are driven: in CI as long as it takes to be believed, at night ten times as long.

HYPOTHESIS_PROFILE=night pytest tests/stateful
"""

import os

from hypothesis import HealthCheck, settings

NIGHT = 10
"""So many times as many examples as in CI."""


def machine_settings(*, examples: int, steps: int) -> settings:
    """Return the settings of a state machine with so many examples, of at most so many steps, in CI."""
    times = NIGHT if os.environ.get("HYPOTHESIS_PROFILE") == "night" else 1
    return settings(
        max_examples=examples * times,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
