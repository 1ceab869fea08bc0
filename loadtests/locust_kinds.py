"""The kinds of users and how many there are of each for one of another; shared by Locust and what judges its runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Users of one kind.

    Attributes:
        name: of the kind, and of its budget.
        weight: how many there are of them.
        does: in words.
    """

    name: str
    weight: int
    does: str


KINDS = (
    Kind("ingestion", 2, "appends record batches"),
    Kind("features", 3, "reads online features"),
    Kind("inference", 4, "sends tensors over the Open Inference Protocol and asks for predictions by key"),
    Kind("training", 1, "looks at models and training runs"),
    Kind("secrets", 1, "fetches public keys"),
    Kind("governance", 1, "reads the policies and erasure requests"),
    Kind("tenants", 2, "is one of several people with several purposes, some of whom must be refused"),
)
LEAST_USERS = sum(kind.weight for kind in KINDS)
