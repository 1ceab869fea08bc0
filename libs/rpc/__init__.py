"""Transports, the interceptor chain, and how services register on both.

A service registers its handlers once, in a form that no transport shows through; the chain does what is the same for
every call (see ``chain.py``).
"""

from libs.authz import Resource, ResourceAttributes
from libs.authz.resource import SUITE
from libs.rpc.call import Call, Caller
from libs.rpc.service import MIB, Access, Audit, Service

__all__ = ["MIB", "SUITE", "Access", "Audit", "Call", "Caller", "Resource", "ResourceAttributes", "Service"]
