"""Books against chain: what the coordinator wrote down about every account, and what the Ledger has.

    balance there = deposited − withdrawn − what rows charged
    spent there   = spent_settled
    earned there  = earned_settled, but for the treasury, whose payouts balance the pool

They agree whenever no epoch is on its way and the chain's last confirmations brought nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from marketplace.domain.accounts import AccountKind
from marketplace.domain.ports.chain import Chain, ChainAccount
from marketplace.services.audit_books import Finding
from marketplace.storage.database import Database
from marketplace.storage.queries import settlement as queries
from marketplace.storage.queries.accounts import A
from marketplace.storage.tables import Account
from tallystick.protocol.ids import Address

ACCOUNTS_A_READ: Final = 500


async def audit_chain(database: Database, chain: Chain) -> Sequence[Finding]:
    """Return every account whose books and chain differ; nothing while an epoch is on its way.

    Raises ChainUnavailable.
    """
    if await database.read(queries.unfinished) is not None:
        return ()
    books = await database.read(_on_chain)
    findings: list[Finding] = []
    for first in range(0, len(books), ACCOUNTS_A_READ):
        part = books[first : first + ACCOUNTS_A_READ]
        there = await chain.accounts([Address(str(account.address)) for account in part])
        for account in part:
            findings += _compare(account, there[Address(str(account.address))])
    return findings


def _on_chain(session: Session) -> Sequence[Account]:
    kinds = (AccountKind.WALLET.value, AccountKind.TREASURY.value)
    statement = select(Account).where(A.c.kind.in_(kinds), A.c.address.is_not(None)).order_by(A.c.id)
    return session.scalars(statement).all()


def _compare(account: Account, there: ChainAccount) -> Iterator[Finding]:
    is_treasury = account.kind == AccountKind.TREASURY
    left = account.balance if is_treasury else account.balance + account.spent - account.spent_settled
    pairs = [
        ("the chain's balance", left, there.balance),
        ("spent on the chain", account.spent_settled, there.spent),
    ]
    if not is_treasury:
        # What rows pay the treasury balances the pool; its books count fees, not rows.
        pairs.append(("earned on the chain", account.earned_settled, there.earned))
    for rule, expected, found in pairs:
        if expected != found:
            yield Finding(account.id, rule, expected, found)
