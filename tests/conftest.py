"""Fixtures for every test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.anvil import Market, anvil_process, market_at
from tests.support.required import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def anvil() -> Iterator[str]:
    """The URL of one local chain for the whole run; a block every second, as in real use."""
    with anvil_process("--block-time", "1") as url:
        yield url


@pytest.fixture
def quick_anvil() -> Iterator[str]:
    """The URL of a chain of the test's own, which mines every transaction at once and nothing in between."""
    with anvil_process() as url:
        yield url


@pytest.fixture
async def chain_market(quick_anvil: str) -> AsyncIterator[Market]:
    """The contracts on a chain of the test's own."""
    async with market_at(quick_anvil) as market:
        yield market
