"""What credit an epoch settles is fixed with its rows.

Epochs of earlier versions have none: what they settle is found when they are closed, as it was before.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Go forward. There is no way back but a backup: money moves only forward."""
    op.add_column("epoch", sa.Column("credit", sa.BigInteger(), nullable=True))
