"""Policy bundles, the index of the audit trail, and erasure requests."""

import sqlalchemy as sa
from alembic import op

revision = "governance_0001"
down_revision = None
branch_labels = None
depends_on = None

# An INTEGER of SQLite has 64 bits and counts by itself under that name alone.
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "policy_bundles",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("create_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit_segments",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("instance", sa.String(32), nullable=False),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary, nullable=False),
        sa.Column("tree_roots", sa.LargeBinary, nullable=False),
        sa.Column("content_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_audit_segments_chain", "audit_segments", ["service", "instance", "first_sequence"], unique=True)
    op.create_table(
        "audit_events",
        sa.Column("id", _ROW_NUMBER, primary_key=True, autoincrement=True),
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("instance", sa.String(32), nullable=False),
        sa.Column("event_ns", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_audit_events_time", "audit_events", ["event_ns", "id"])
    for column in ("actor", "action", "decision"):
        op.create_index(f"ix_audit_events_{column}", "audit_events", [column, "event_ns", "id"])
    op.create_table(
        "audit_heads",
        sa.Column("service", sa.String(32), primary_key=True),
        sa.Column("instance", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary, nullable=False),
        sa.Column("report_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "erasure_requests",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("request_id", sa.String(36), nullable=False, unique=True),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("subject_hash", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("stores", sa.Text, nullable=False),
        sa.Column("create_ns", sa.BigInteger, nullable=False),
        sa.Column("end_ns", sa.BigInteger, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_erasure_requests_time", "erasure_requests", ["create_ns", "id"])
