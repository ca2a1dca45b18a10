"""Books that are older than their chain are not gone on with.

Rows are cumulative. Books that do not know of a closed epoch have smaller sums than the chain, so new work
would not be paid before it had made up for the work that they have forgotten.
"""

from marketplace.domain.errors import Refused
from marketplace.domain.ports.chain import Chain
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries


class BooksBehind(Refused):
    """The Ledger has closed an epoch that the books do not know of."""

    code = "books_behind"


async def check_not_behind(database: Database, chain: Chain) -> None:
    """Raise BooksBehind if the chain has settled what the books have not, ChainUnavailable."""
    last = await database.read(queries.last_sealed)
    known = -1 if last is None else last.number
    settled = (await chain.ledger()).next_epoch - 1
    if settled > known:
        raise BooksBehind(
            f"the Ledger has closed epoch {settled}, and the latest that these books know of is "
            f"{'none' if last is None else known}: they are older than their chain, or another market's. "
            "New work would not be paid in full. They learn what was settled since with: tallystick books "
            "catch-up (docs/operations.md)."
        )
