"""Idempotency keys that were used, and what the daily budgets are read from."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Go forward. There is no way back but a backup: money moves only forward."""
    op.create_table(
        "repeat_key",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("made", sa.String(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_repeat_key_expires_at", "repeat_key", ["expires_at"])
    op.add_column("account", sa.Column("unsigned_since", sa.BigInteger(), nullable=True))
    op.create_index("ix_account_unsigned_since", "account", ["unsigned_since"])
    grants = sa.text("kind = 'grant'")
    op.create_index("ix_entry_granted", "entry", ["at"], sqlite_where=grants, postgresql_where=grants)
