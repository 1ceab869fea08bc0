"""What a call acts on, as policies see it."""

from __future__ import annotations

from typing import NamedTuple


class Resource(NamedTuple):
    """A named resource; like its attributes a named tuple, which is hashed for each decision without running Python.

    Attributes:
        kind: the entity type in the schema, such as ``Dataset``.
        name: the resource name, such as ``datasets/clients``.
    """

    kind: str
    name: str


SUITE = Resource("Suite", "suite")
"""What a call acts on when it names no single resource, such as a listing."""


class ResourceAttributes(NamedTuple):
    """What policies can ask of a resource.

    Attributes:
        purposes: what it may be used for; empty means no limit.
        tags: sensitivity, such as ``pii``.
        owner: who owns it; for keys the service whose name the key starts with.
    """

    purposes: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    owner: str = ""


NO_ATTRIBUTES = ResourceAttributes()
