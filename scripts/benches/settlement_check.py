"""What a provider's agent does with an epoch's file, in a process of its own to see its memory."""

import json
import resource
import sys
import time
from mmap import ACCESS_READ, mmap
from pathlib import Path

from provider.watch import Closed, examine
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.merkle import root_of
from tallystick.protocol.money import NanoUsd


def main(path: Path) -> None:
    """Check the file, and write processor seconds and memory to standard output."""
    with path.open("rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    told = decode_epoch(data)
    closed = Closed(0, root_of(told.receipt_ids), len(told.receipt_ids), told.hash)
    del told
    start = time.process_time()
    outcome = examine(closed, data, (), NanoUsd(0), ())
    if outcome.findings:
        raise RuntimeError(f"the file is wrong: {outcome.findings}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": time.process_time() - start, "memory_mb": memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
