"""What a provider's agent does with an epoch's file, in a process of its own to see its memory."""

import json
import resource
import sys
import time
from pathlib import Path

from provider.watch import Closed, examine
from tallystick.protocol.epochfile import decode_epoch
from tallystick.protocol.hashing import keccak256
from tallystick.protocol.merkle import receipt_tree
from tallystick.protocol.money import NanoUsd


def main(path: Path) -> None:
    """Check the file, and write processor seconds and memory to standard output."""
    data = path.read_bytes()
    root = receipt_tree(decode_epoch(data).receipt_ids).root
    closed = Closed(0, root, len(decode_epoch(data).receipt_ids), keccak256(data))
    start = time.process_time()
    outcome = examine(closed, data, (), NanoUsd(0), ())
    if outcome.findings:
        raise RuntimeError(f"the file is wrong: {outcome.findings}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": time.process_time() - start, "memory_mb": memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
