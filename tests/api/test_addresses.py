"""Whose address counts when proxies stand in between."""

from typing import Any

import pytest
from starlette.requests import Request

from marketplace.api.deps import Gate

PROXIES = frozenset({"10.0.0.1", "10.0.0.2"})


def address(peer: str | None, *forwarded: str) -> str:
    gate: Any = Gate(keys=None, limits=None, trusted_proxies=PROXIES)  # type: ignore[arg-type]
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    scope = {"type": "http", "headers": headers, "client": None if peer is None else (peer, 1)}
    told: str = gate.address(Request(scope))
    return told


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.1"], "10.0.0.2"),
        ("10.0.0.1", [" , "], "10.0.0.1"),
        (None, ["198.51.100.1"], ""),
    ],
)
def test_only_what_trusted_proxies_saw_is_believed(
    peer: str | None, forwarded: list[str], found: str
) -> None:
    assert address(peer, *forwarded) == found
