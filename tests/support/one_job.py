"""A process that runs one job and keeps its node's receipt; a fail point may kill it on the way.

python -m tests.support.one_job FOLDER
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from tallystick.protocol.frames import Finished
from tallystick.protocol.receipts import Finish
from tests.support.markets import a_market
from tests.support.nodes import EOS, ScriptedNode, Work


async def run(folder: Path) -> None:
    """Run the job; the receipt is in `receipt.msgpack` before it is sent."""

    async def careful(work: Work) -> None:
        await work.tokens([*work.job.prompt_ids, EOS])
        finished = Finished(receipt=work.a_receipt(Finish.EOS))
        (folder / "receipt.msgpack").write_bytes(msgspec.msgpack.encode(finished.receipt))
        await work.send([finished])

    async with a_market(folder) as stand, stand.joined(ScriptedNode(1, careful)):
        await stand.ask()
        (folder / "answered").touch()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
