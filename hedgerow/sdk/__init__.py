"""The Python SDK: one object per caller with a client for each service.

    async with Hedgerow.connect(context.identity("ana"), context.addresses) as ana:
        await ana.for_purpose("credit_risk").ingestion.append("datasets/clients", table)

Every method has a deadline, raises the typed errors of `hedgerow.errors`, and tries again only where a repeat is safe.
"""

from hedgerow.sdk.connection import Hedgerow
from hedgerow.sdk.context import Context, login
from hedgerow.sdk.triton import triton_client

__all__ = ["Context", "Hedgerow", "login", "triton_client"]
