"""Feature views, feature services, training sets and materializations."""

import sqlalchemy as sa
from alembic import op

revision = "features_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "feature_views",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "feature_services",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("view_ids", sa.JSON, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "training_sets",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("service_id", sa.String(63), nullable=False),
        sa.Column("cutoffs", sa.JSON, nullable=False),
        sa.Column("purposes", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_table(
        "materializations",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("service_id", sa.String(63), nullable=False),
        sa.Column("as_of_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("entity_count", sa.BigInteger, nullable=False),
        sa.Column("rejected_count", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
