"""A rule for every run: what needs PostgreSQL is run, not skipped."""

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test of PostgreSQL as failed: its server comes from a package; nothing excuses it."""
    report = yield
    if report.skipped and item.get_closest_marker("postgres") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} needs PostgreSQL and was skipped: {call.excinfo and call.excinfo.value}"
        )
    return report
