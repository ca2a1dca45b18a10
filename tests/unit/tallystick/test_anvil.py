"""A local chain starts, keeps its state, and ends with whoever started it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tallystick import anvil
from tallystick.anvil import AnvilMissing, anvil_key, find_anvil, running_anvil, start_anvil, stop_anvil
from tallystick.evm.connection import connected

pytestmark = pytest.mark.anvil


async def test_a_chain_makes_blocks_by_itself_and_stops() -> None:
    async with running_anvil(block_time=1) as chain, connected(chain.rpc_url) as connection:
        first = await connection.block()
        assert first is not None
        assert await connection.gas_money(anvil_key(0).address) > 0
        async with asyncio.timeout(20):
            while True:
                latest = await connection.block()
                assert latest is not None
                if latest.number > first.number:
                    break
                await asyncio.sleep(0.2)
    assert chain.process.returncode is not None


async def test_a_chain_with_a_state_file_goes_on_after_its_end(tmp_path: Path) -> None:
    state = tmp_path / "chain.json"
    chain = await start_anvil(state=state)
    async with connected(chain.rpc_url) as connection:
        await connection.rpc("anvil_mine", "0x5")
        old = await connection.block(4)
    await stop_anvil(chain)
    chain = await start_anvil(state=state)
    async with connected(chain.rpc_url) as connection:
        assert old is not None
        assert await connection.block(4) == old
    await stop_anvil(chain)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_a_chain_ends_when_its_parent_is_killed() -> None:
    program = (
        "import asyncio, sys; from tallystick.anvil import start_anvil\n"
        "async def main():\n"
        "    chain = await start_anvil()\n"
        "    print(chain.process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    for _ in range(200):
        if not is_running(pid):
            break
        await asyncio.sleep(0.1)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """Return whether a process is there and not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_a_machine_without_anvil_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_anvil().exists()
    monkeypatch.setattr(anvil, "__file__", str(tmp_path / "package" / "anvil.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnvilMissing, match="scripts/setup"):
        find_anvil()
