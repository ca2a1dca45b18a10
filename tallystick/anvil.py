"""A local chain of one's own: Anvil, started on a loopback port and stopped again."""

import asyncio
import ctypes
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tallystick.protocol.keys import SigningKey

_MNEMONIC: Final = "test test test test test test test test test test test junk"
_LISTENING: Final = re.compile(rb"Listening on 127\.0\.0\.1:(\d+)")
_START_S: Final = 30
_STOP_S: Final = 10
_PR_SET_PDEATHSIG: Final = 1


class AnvilMissing(RuntimeError):
    """There is no Anvil on this machine, or it does not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Anvil:
    """A running chain; `process` is to be stopped with `stop_anvil`."""

    rpc_url: str
    process: asyncio.subprocess.Process
    drain: "asyncio.Task[None]"


@cache
def anvil_key(index: int) -> SigningKey:
    """Return the key of Anvil's account `index` (0–9), each rich in gas money; everybody knows these keys."""
    # Half a second to import, and only local chains need it.
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    return SigningKey(bytes(Account.from_mnemonic(_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}").key))


def find_anvil() -> Path:
    """Return the Anvil binary: on the PATH, or among the packages of this repository. Raises AnvilMissing."""
    local = Path(__file__).resolve().parent.parent / "node_modules" / ".bin"
    found = shutil.which("anvil", path=os.pathsep.join((str(local), os.environ.get("PATH", os.defpath))))
    if found is None:
        raise AnvilMissing("Anvil is not installed; run ./scripts/setup, or install Foundry.")
    return Path(found)


async def start_anvil(
    *, port: int = 0, block_time: int = 1, chain_id: int = 31337, state: Path | None = None
) -> Anvil:
    """Return a chain that answers on loopback and makes a block every `block_time` seconds.

    Port 0 takes a free one; `state` is a file that keeps the chain between runs. Raises AnvilMissing.
    """
    # Without a block time nothing is mined between transactions, and confirmations never come.
    command = [str(find_anvil()), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)]
    command += ["--mnemonic", _MNEMONIC, "--block-time", str(block_time), "--slots-in-an-epoch", "1"]
    if state is not None:
        command += ["--state", str(state), "--state-interval", "5", "--preserve-historical-states"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    try:
        actual = await asyncio.wait_for(_port_of(process), _START_S)
    except (TimeoutError, AnvilMissing) as error:
        process.kill()
        await process.wait()
        raise AnvilMissing(f"Anvil does not start: {error}") from error
    drain = asyncio.create_task(_drain(process))
    return Anvil(f"http://127.0.0.1:{actual}", process, drain)


async def stop_anvil(anvil: Anvil) -> None:
    """Stop the chain, letting it write its state first."""
    if anvil.process.returncode is None:
        anvil.process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(anvil.process.wait(), _STOP_S)
        except TimeoutError:
            anvil.process.kill()
            await anvil.process.wait()
    await anvil.drain


@asynccontextmanager
async def running_anvil(*, block_time: int = 1, port: int = 0) -> AsyncIterator[Anvil]:
    """Give a chain that is stopped at the end. Raises AnvilMissing."""
    anvil = await start_anvil(port=port, block_time=block_time)
    try:
        yield anvil
    finally:
        await stop_anvil(anvil)


def _end_with_parent() -> None:
    # A chain that outlived a killed parent would go on writing the state file that the next one starts from.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


async def _port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    said = b""
    async for line in process.stdout:
        said += line
        if match := _LISTENING.search(line):
            return int(match[1])
    raise AnvilMissing(said.decode(errors="replace")[-500:] or "it ended without a word")


async def _drain(process: asyncio.subprocess.Process) -> None:
    # A pipe that nobody reads fills up, and then the chain stands still.
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
