"""Places where a test can kill the process, to show what a crash between two durable effects leaves behind.

`TALLYSTICK_FAILPOINT=name` kills at the first time that `reach("name")` is passed, `name:3` at the third.
The variable is read here and not in the settings: it belongs to tests, and must work before settings exist.
"""

import os
import signal

_armed, _, _count = os.environ.get("TALLYSTICK_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def reach(name: str) -> None:
    """Kill the process as `kill -9` would, if `name` is armed and its turn has come; else do nothing."""
    if name != _armed:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
