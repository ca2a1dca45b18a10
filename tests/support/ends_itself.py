"""A program that is ended by a signal, as by a kernel that is short of memory."""

import os
import signal

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGKILL)
