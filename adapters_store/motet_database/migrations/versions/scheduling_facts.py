"""What scheduling must know of an adapter before it is loaded, and what a conversion has lost."""

import sqlalchemy as sa
from alembic import op

from motet_database.column_types import Int64

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Every adapter of before was LoRA or DoRA, active from the first token and without a prefix.
    op.add_column(
        "blobs", sa.Column("num_virtual_tokens", Int64, nullable=False, server_default="0")
    )
    op.add_column(
        "blobs", sa.Column("invocation_tokens", sa.Text(), nullable=False, server_default="[]")
    )
    op.add_column(
        "blobs", sa.Column("lossy_errors", sa.Text(), nullable=False, server_default="{}")
    )
