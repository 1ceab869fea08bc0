"""Alembic scripts of the governance service."""
