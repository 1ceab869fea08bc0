"""Default-deny authorisation: Cedar policies over the caller, the RPC, the resource it names and the stated purpose.

The schema beside this file lists every action (one per RPC) and is part of the code; policies and principals are data and
come as a signed bundle from governance. ``Authorizer`` holds the compiled bundle and a bounded cache of decisions.
"""

from libs.authz.authorizer import Authorizer, Decision
from libs.authz.bundle import Bundle, compile_bundle, encode_bundle, verify_envelope
from libs.authz.resource import Resource, ResourceAttributes

__all__ = [
    "Authorizer",
    "Bundle",
    "Decision",
    "Resource",
    "ResourceAttributes",
    "compile_bundle",
    "encode_bundle",
    "verify_envelope",
]
