"""Which contracts a market was on when this machine first signed for it.

A consent is good on one chain and one Ledger. A coordinator that suddenly names others may have been broken
into, and wants signatures for a place where they are worth something to somebody else.
"""

import json
import os
from pathlib import Path
from typing import Final

from tallystick.protocol.eip712 import Domain

LOCAL_CHAIN: Final = 31337
"""Chains of this id live on one machine and are made anew all the time; nothing on them is worth anything."""


class MarketChanged(ValueError):
    """The market at an address is on other contracts than before."""


def check_market(path: Path, base_url: str, domain: Domain) -> None:
    """Remember that the market at `base_url` is on `domain`, in the file at `path`.

    Raises MarketChanged if it was on another one when this was asked before, unless that was a local chain.
    """
    address, now = base_url.rstrip("/"), [domain.chain_id, domain.contract]
    known = json.loads(path.read_text()) if path.exists() else {}
    before = known.get(address)
    if before == now:
        return
    if before is not None and before[0] != LOCAL_CHAIN:
        raise MarketChanged(
            f"{address} was on the Ledger {before[1]} of chain {before[0]} and says now that it is on "
            f"{now[1]} of chain {now[0]}. Nothing was signed. If its operator has announced that, take "
            f"{address} out of {path}"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(known | {address: now}, indent=2))
    fresh.replace(path)
