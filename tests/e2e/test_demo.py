"""The main job, as a user starts it: every part a process of its own, on a real chain, with real weights."""

import asyncio
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.anvil
@pytest.mark.timeout(1200)
async def test_the_demo_holds_from_nothing_to_a_claim_and_says_so(tmp_path: Path) -> None:
    told = tmp_path / "market.json"
    with (tmp_path / "demo.log").open("wb") as log:
        demo = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "scripts.demo_market", "--once", "--providers", "2"),
            *("--dir", str(tmp_path / "market"), "--json", str(told)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        code = await demo.wait()
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.wait()
    said = (tmp_path / "demo.log").read_text()
    assert code == 0, said
    assert "All of it held" in said
    market = json.loads(told.read_text())
    assert {"base_url", "api_key", "user_id", "email", "rpc_url", "contracts", "providers"} <= market.keys()
    assert told.stat().st_mode & 0o077 == 0, "there is an API key in it"
