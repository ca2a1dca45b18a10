"""Where connections come from, and how many each place may have."""

from collections import Counter
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

HOST_BITS: Final = 64
"""Of an IPv6 address: whoever has one of a network has all of it."""


def network_of(address: str) -> str:
    """Return what counts as one place: an IPv4 address, or the /64 that one line is given in IPv6."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Network((int(found) >> HOST_BITS << HOST_BITS, 128 - HOST_BITS)))
    return str(found)


class Crowd:
    """How many connections each place has open: at most `most` (0: no limit)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count one more of an address' place; False, and nothing is counted, if it has as many as it may."""
        place = network_of(address)
        if self.most and self._open[place] >= self.most:
            return False
        self._open[place] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        place = network_of(address)
        self._open[place] -= 1
        if self._open[place] <= 0:
            del self._open[place]

    def __len__(self) -> int:
        """Return how many places have connections."""
        return len(self._open)
