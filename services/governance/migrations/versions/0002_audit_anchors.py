"""The anchors of the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "governance_0002"
down_revision = "governance_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "audit_anchors",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
    )
