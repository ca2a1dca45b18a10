"""What the treasury paid of late is found without reading every receipt."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Go forward. There is no way back but a backup: money moves only forward."""
    of_treasury = sa.text("payer_id = 'treasury'")
    op.create_index(
        "ix_receipt_treasury", "receipt", ["taken_at"], sqlite_where=of_treasury, postgresql_where=of_treasury
    )
