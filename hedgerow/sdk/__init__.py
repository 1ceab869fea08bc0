"""The Python SDK: one object per caller with a client for each service.

    async with Hedgerow.connect(context.identity("ana"), context.addresses) as ana:
        await ana.for_purpose("credit_risk").ingestion.append("datasets/clients", table)

`SyncHedgerow` is the same for programs without an event loop. Every method has a deadline, raises the typed errors of
`hedgerow.errors`, and tries again only where a repeat is safe.
"""

from typing import TYPE_CHECKING, Any

from hedgerow.sdk.context import Context, login
from hedgerow.sdk.triton import triton_client

if TYPE_CHECKING:
    from hedgerow.sdk.connection import Hedgerow
    from hedgerow.sdk.sync import SyncHedgerow

__all__ = ["Context", "Hedgerow", "SyncHedgerow", "login", "triton_client"]


def __getattr__(name: str) -> Any:
    # The supervisor and `login` need the context alone; the connection brings pyarrow, some 60 MiB of memory.
    if name == "Hedgerow":
        from hedgerow.sdk.connection import Hedgerow

        return Hedgerow
    if name == "SyncHedgerow":
        from hedgerow.sdk.sync import SyncHedgerow

        return SyncHedgerow
    raise AttributeError(name)
