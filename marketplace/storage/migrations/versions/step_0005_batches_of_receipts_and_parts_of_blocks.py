"""Receipts mature into batches, which epochs take whole: no place is written. Blocks can be read in part."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Go forward. There is no way back but a backup: money moves only forward."""
    op.create_table(
        "open_batch",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.execute("INSERT INTO open_batch (number) SELECT COALESCE(MAX(number), -1) + 1 FROM epoch")
    op.add_column("epoch", sa.Column("last_batch", sa.BigInteger(), server_default="0", nullable=False))
    op.execute("UPDATE epoch SET last_batch = number")
    op.create_index("ix_epoch_last_batch", "epoch", ["last_batch"], unique=True)
    op.drop_index("ix_receipt_unsettled", "receipt")
    op.drop_index("ix_receipt_epoch", "receipt")
    # A receipt keeps its epoch, whose one batch has its number, and its place: places were always given in
    # the order of the ids. One that got a place in an epoch that was never stored is as free as the others.
    op.alter_column("receipt", "epoch", new_column_name="batch")
    op.execute(
        "UPDATE receipt SET batch = (SELECT number FROM open_batch) WHERE matured IS TRUE "
        "AND (batch IS NULL OR batch > (SELECT COALESCE(MAX(last_batch), -1) FROM epoch))"
    )
    op.drop_column("receipt", "leaf")
    op.drop_column("pruned_receipt", "leaf")
    has_batch = sa.text("batch IS NOT NULL")
    op.create_index(
        "ix_receipt_batch", "receipt", ["batch", "id"], sqlite_where=has_batch, postgresql_where=has_batch
    )
    whole_block = str(2**31 - 1)
    op.add_column(
        "chain_cursor", sa.Column("log_index", sa.Integer(), nullable=False, server_default=whole_block)
    )
