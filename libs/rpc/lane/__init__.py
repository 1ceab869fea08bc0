"""The second transport, the fast lane: gRPC over HTTP/2 by libnghttp2, TLS 1.3 by OpenSSL, one loop, no other threads
than those of handshakes.

From the socket inwards: ``port`` (listens, bounds, drains) → ``secure`` (TLS) → ``connection`` (HTTP/2 events and limits)
→ ``exchange`` (one call and its task) → the chain. ``session`` is the seam to libnghttp2, ``framing`` the gRPC that is
plain bytes. See ``docs/adr/0012-fast-lane.md``.
"""

from libs.rpc.lane.limits import Limits
from libs.rpc.lane.port import LanePort

__all__ = ["LanePort", "Limits"]
