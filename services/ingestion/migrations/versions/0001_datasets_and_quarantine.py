"""Datasets, appends and quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "ingestion_0001"
down_revision = None
branch_labels = None
depends_on = None

# An INTEGER of SQLite has 64 bits and counts by itself under that name alone.
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("contract", sa.Text, nullable=False),
        sa.Column("pseudonym_domain", sa.String(63), nullable=False, index=True),
        sa.Column("quarantine_key", sa.LargeBinary, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "appends",
        sa.Column("dataset_id", sa.String(63), sa.ForeignKey("datasets.id"), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("visible", sa.Boolean, nullable=False, index=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("quarantined_row_count", sa.BigInteger, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", _ROW_NUMBER, primary_key=True, autoincrement=True),
        sa.Column("dataset_id", sa.String(63), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("row_index", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id", "request_id"], ["appends.dataset_id", "appends.request_id"]),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_quarantine_append", "quarantine", ["dataset_id", "request_id"])
