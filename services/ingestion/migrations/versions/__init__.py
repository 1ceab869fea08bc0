"""One Alembic script per schema change."""
