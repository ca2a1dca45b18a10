"""Books that are older than their chain learn what was settled since, from the epochs' files.

    EpochClosed (chain) ──▶ hash ──▶ the epoch's file ──▶ receipts, rows ──▶ the books, one write an epoch

A file is taken only if its hash is the one on the chain and its receipts are under the root there, so it does
not matter where it comes from. What is under no root yet cannot be learned from the chain: consumers are not
charged for it.

A receipt names the consumer's wallet. Those on credit have the market's own address on it; if the books do
not know the job either, nobody can tell who it was. The operator gives that credit once more, to the account
`forgotten`, and has to have the deposit for it.
"""

from marketplace.services.catching_up.service import CatchUp, CaughtUp, Market

__all__ = ["CatchUp", "CaughtUp", "Market"]
