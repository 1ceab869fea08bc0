"""A real PostgreSQL."""

from tests.support.backing import postgres

__all__ = ["postgres"]
