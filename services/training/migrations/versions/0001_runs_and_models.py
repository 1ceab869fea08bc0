"""Training runs, models, their versions and aliases."""

import sqlalchemy as sa
from alembic import op

revision = "training_0001"
down_revision = None
branch_labels = None
depends_on = None

# An INTEGER of SQLite has 64 bits and counts by itself under that name alone.
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "training_runs",
        sa.Column("sequence", _ROW_NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(63), nullable=False, unique=True),
        sa.Column("requester", sa.String(256), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epochs", sa.JSON, nullable=False),
        sa.Column("model_version", sa.String(160), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("requester", "request_id"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("last_number", sa.Integer, nullable=False),
    )
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(63), sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("training_run", sa.String(80), nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
        sa.Column("artifact_digest", sa.String(64), nullable=False),
        sa.Column("artifact_size", sa.BigInteger, nullable=False),
        sa.Column("gates", sa.JSON, nullable=False),
        sa.Column("evaluation", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "model_aliases",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("alias", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["model", "number"], ["model_versions.model", "model_versions.number"]),
    )
