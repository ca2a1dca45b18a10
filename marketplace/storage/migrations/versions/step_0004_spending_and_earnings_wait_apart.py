"""Since when an account's spending waits for its row, and since when its earnings do, apart."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Go forward. There is no way back but a backup: money moves only forward."""
    op.execute("ALTER TABLE account RENAME COLUMN accruing_since TO earned_since")
    op.add_column("account", sa.Column("spent_since", sa.BigInteger(), nullable=True))
    op.execute("UPDATE account SET spent_since = earned_since WHERE spent_matured > spent_settled")
    op.execute("UPDATE account SET earned_since = NULL WHERE earned <= earned_settled")
    # Charges have put the time of these earnings off, also beyond what cheques promise: they are due now.
    op.execute(
        "UPDATE account SET earned_since = created_at WHERE earned > earned_settled AND spent_settled > 0"
    )
