"""Deployments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table of deployments."""
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.String(63), primary_key=True),
        sa.Column("model_version", sa.String(160), nullable=False),
        sa.Column("artifact_digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
        sa.Column("update_time_us", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop the table of deployments."""
    op.drop_table("deployments")
