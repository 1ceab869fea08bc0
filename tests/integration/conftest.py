"""Fixtures shared by all integration tests."""

from tests.support.openbao import openbao

__all__ = ["openbao"]
