"""A process that has the coordinator loaded and starts coordinators by forking: a start costs no imports.

    python -m scripts.benches.crash.forking

It reads lines of JSON, `{"point": …, "log": …}`, forks a coordinator that has its environment and is armed to
die at the point (none: ""), writes `started PID`, and when the child has ended `ended STATUS`.
"""

import json
import os
import sys
from typing import Any

from marketplace.commands.up import up
from marketplace.storage.failpoints import arm


def child(told: dict[str, Any]) -> None:
    """Run the coordinator; does not return."""
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    arm(told["point"])
    status = 1
    try:
        up()
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        sys.stdout.write(f"started {pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"ended {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
