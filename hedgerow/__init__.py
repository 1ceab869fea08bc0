"""Hedgerow: from raw records to audited, explained predictions, with every hop proven.

This is the bottom layer and the only published package: the stubs generated from ``protos/``, the typed errors, resource
names, identities and channels, the Python SDK and the command line. Nothing here imports ``libs`` or ``services``.
"""

__version__ = "0.1.0"
