"""What everybody in the market shares: the protocol, models, the SDK and the command line."""

import contextlib
import importlib
import sys

# py_ecc, which eth-account brings, raises the limit on recursion to 100,000, far beyond what the stack holds:
# then a stranger's deeply nested JSON ends the process where it should have been a RecursionError. It does so
# once, when it is first imported: now.
_limit = sys.getrecursionlimit()
with contextlib.suppress(ImportError):
    importlib.import_module("py_ecc")
sys.setrecursionlimit(_limit)
