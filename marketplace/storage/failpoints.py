"""Places where a test can kill the process, to show what a crash between two durable effects leaves behind.

`TALLYSTICK_FAILPOINT=name` kills at the first time that `reach("name")` is passed, `name:3` at the third.
The variable is read here and not in the settings: it belongs to tests, and must work before settings exist.

Every commit of the books lies between `books.group_ran` and `books.group_committed`, whoever asked for it.
The others are where an effect is not a commit (a file, a signature that is sent, a transaction that is
broadcast), or where what was committed is worth a name of its own. A test holds this list against the code.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    # name: what is durable when the process dies there, and what is not
    "books.group_ran": "a group of writes has run; nothing of it is committed",
    "books.group_committed": "a group of writes is committed; none of its callers was told",
    "books.orphans_released": "holds of the process before this one are given back; nothing is served yet",
    "leases.taken": "the scheduled work is this process's by the books; it has done none of it",
    "dispatch.hold_opened": "a job's hold is set aside; a node has the job, its consumer has nothing of it",
    "dispatch.before_capture": "a node has signed for the answer; the hold is untouched",
    "dispatch.captured": "the charge and its receipts are in the books; neither node nor consumer was told",
    "dispatch.told": "the node was told that its receipt is taken; the consumer has no charge yet",
    "dispatch.before_release": "a job has failed; its hold is untouched",
    "dispatch.released": "a failed job's hold is given back; its nodes were not told",
    "dispatch.late_taken": "a late receipt is in the books; its node was not told",
    "catalog.file_staged": "a model's tokenizer is written under a passing name",
    "catalog.file_stored": "a model's tokenizer is stored; the books do not know the model",
    "deposits.before_fresh": "some withdrawals are read; they are not in the books",
    "deposits.after_fresh": "some withdrawals are in the books, and the cursor with them",
    "deposits.before_confirmed": "some deposits are read; they are not in the books",
    "deposits.after_confirmed": "some deposits and rights are in the books, and the cursor with them",
    "deposits.requests_corrected": "requests that the chain does not have are out of the books",
    "deposits.rewound": "what a reorganisation took back is out of the books; its blocks are not read again",
    "maturity.some_matured": "some of the receipts that are due have matured",
    "maturity.holds_expired": "holds past their time are given back; nobody was told",
    "acknowledgements.stored": "a cheque is in the books; the operator does not have it",
    "acknowledgements.sent": "one operator has its cheque; the next one's is not signed",
    "settlement.cut": "it is fixed which receipts an epoch may have; the epoch is not stored",
    "settlement.sealed": "an epoch is stored with its rows; there is no file of it",
    "settlement.file_staged": "an epoch's file is written under a passing name",
    "settlement.file_written": "an epoch's file is there; the books do not know its hash",
    "settlement.published": "the books know the epoch's file; nothing was sent",
    "settlement.sending": "the epoch counts as on its way; nothing was sent",
    "settlement.amended": "an epoch's remaining rows were planned anew; it has to be published again",
    "settlement.before_close": "the chain has closed the epoch for good; the books have not",
    "settlement.closed": "books and chain have closed the epoch",
    "transactions.stored": "a signed transaction is stored; it was not broadcast",
    "transactions.broadcast": "a signed transaction was broadcast",
    "transactions.broadcast_again": "a stored transaction was broadcast once more",
    "transactions.stored_again": "a transaction that bids more is stored; it was not broadcast",
    "transactions.bid_more": "a transaction that bids more was broadcast",
    "transactions.marked": "a transaction's fate is in the books; nothing was done about it",
}
"""Every fail point of the coordinator."""

_armed, _left = "", 0


def arm(point: str) -> None:
    """Kill at `point` (`name` or `name:turn`) from now on; an empty one disarms."""
    global _armed, _left
    _armed, _, turn = point.partition(":")
    _left = int(turn or 1)


def reach(name: str) -> None:
    """Kill the process as `kill -9` would, if `name` is armed and its turn has come; else do nothing."""
    if name != _armed:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("TALLYSTICK_FAILPOINT", ""))
