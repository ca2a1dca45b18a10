"""An epoch's way to the chain, resumable at every arrow.

    due rows ──▶ sealed ──▶ published ──▶ sending ──▶ closed
                 receipts    file under    chunk by     the closing is deep enough;
                 and rows    its hash      chunk        the books know what the chain has
                 are fixed

Each state is one durable write. What is between two writes can be done again: the same rows make the same
file, the same stored transaction is broadcast again, and the Ledger refuses a chunk that it has.
"""

from marketplace.services.settlement.files import EpochFiles
from marketplace.services.settlement.proofs import EpochProofs
from marketplace.services.settlement.service import Settlement
from marketplace.services.settlement.terms import SettlementTerms

__all__ = ["EpochFiles", "EpochProofs", "Settlement", "SettlementTerms"]
