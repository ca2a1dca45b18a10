"""Books that are older than their chain are not gone on with.

Rows are cumulative. Books that do not know of a closed epoch have smaller sums than the chain, so new work
would not be paid before it had made up for the work that they have forgotten. Books that do not know which
rows an open epoch has on the chain cannot close it, and nothing would be settled any more.
"""

from sqlalchemy.orm import Session

from marketplace.domain.errors import Refused
from marketplace.domain.ports.chain import Chain
from marketplace.services.settlement.sending import purpose
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries import transactions


class BooksBehind(Refused):
    """The Ledger has taken rows that the books do not know of."""

    code = "books_behind"


async def check_not_behind(database: Database, chain: Chain) -> None:
    """Raise BooksBehind if the chain has settled what the books have not, ChainUnavailable."""
    ledger = await chain.ledger()
    last = await database.read(queries.last_sealed)
    known, settled = -1 if last is None else last.number, ledger.next_epoch - 1
    if settled > known:
        raise BooksBehind(
            f"the Ledger has closed epoch {settled}, and the latest that these books know of is "
            f"{'none' if last is None else known}: they are older than their chain, or another market's. "
            f"New work would not be paid in full. {_REMEDY}"
        )
    epoch = await database.read(queries.unfinished)
    if epoch is not None and epoch.number <= settled:
        number, taken, state, remedy = epoch.number, epoch.chunks, "closed", _REMEDY
    else:
        number, taken, state, remedy = ledger.next_epoch, ledger.chunks, "not closed", _REMEDY_OPEN
    sent = await database.read(lambda session: _sent(session, number, taken))
    if sent < taken:
        raise BooksBehind(
            f"epoch {number} ({state}) has rows on the chain that these books did not send: the Ledger took "
            f"its first {taken} chunks, and these books have sent {sent} of them. They are older than their "
            f"chain, and nothing would be settled rightly on them. {remedy}"
        )


_REMEDY = "They learn what was settled since with: tallystick books catch-up (docs/operations.md, Backups)."
_REMEDY_OPEN = (
    "The rows of an epoch that is not closed are in no file yet: bring books that were saved after they were "
    "sent. Without those, what is left is a move to new contracts (docs/operations.md, Backups)."
)


def _sent(session: Session, number: int, chunks: int) -> int:
    """Return how many of an epoch's first chunks the books have made transactions for.

    Those are stored before they are broadcast, so what is on the chain is there, in books that sent it.
    """
    epoch = queries.epoch(session, number)
    made = 0 if epoch is None else min(chunks, epoch.chunks)
    return sum(transactions.find(session, purpose(number, chunk)) is not None for chunk in range(made))
