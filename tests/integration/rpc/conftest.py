"""Everything in this folder holds on both transports."""

from tests.support.transports import transport

__all__ = ["transport"]
