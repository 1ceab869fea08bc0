"""Decisions, cached with a bound."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cedarpy

from libs.authz.bundle import NAMESPACE, Bundle, principal_kind
from libs.authz.resource import Resource, ResourceAttributes

CACHE_SIZE = 16_384


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policies say of one call on one resource.

    Attributes:
        permitted: whether the call may go on.
        policies: ids of the determining policies; empty when nothing permits.
        version: version of the bundle that decided.
    """

    permitted: bool
    policies: tuple[str, ...]
    version: int

    @property
    def about_purpose(self) -> bool:
        """Whether the purpose is what stands against the call."""
        return not self.permitted and any(policy.startswith("purpose") for policy in self.policies)


class Authorizer:
    """Decides with the bundle in force. Not thread-safe: one per event loop."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._cache: dict[tuple[object, ...], Decision] = {}

    @property
    def version(self) -> int:
        """Version of the bundle in force."""
        return self._bundle.version

    def replace(self, bundle: Bundle) -> None:
        """Put another bundle in force, from the next decision on."""
        self._bundle = bundle
        self._cache.clear()

    def decide(
        self,
        principal: str,
        action: str,
        resource: Resource,
        attributes: ResourceAttributes,
        *,
        purpose: str = "",
        delegated: bool = False,
        granted: bool = False,
    ) -> Decision:
        """Return the decision for one call on one resource.

        Args:
            principal: SPIFFE ID of the caller, or of the one it calls for.
            action: the RPC, such as ``ingestion.AppendRecords``.
            resource: what it acts on.
            attributes: what policies can ask of the resource.
            purpose: why, or empty.
            delegated: whether the call is made on behalf of another principal.
            granted: whether the request carries a valid grant of the resource's owner.
        """
        key = (principal, action, resource, attributes, purpose, delegated, granted)
        decision = self._cache.get(key)
        if decision is None:
            decision = self._evaluate(principal, action, resource, attributes, purpose, delegated, granted)
            if len(self._cache) >= CACHE_SIZE:
                # Dropping all is simple and rare; the next calls fill it with what is hot.
                self._cache.clear()
            self._cache[key] = decision
        return decision

    def _evaluate(
        self,
        principal: str,
        action: str,
        resource: Resource,
        attributes: ResourceAttributes,
        purpose: str,
        delegated: bool,
        granted: bool,
    ) -> Decision:
        bundle = self._bundle
        kind = principal_kind(principal)
        if kind is None or principal not in bundle.known:
            return Decision(False, (), bundle.version)
        entity = {
            "uid": {"type": f"{NAMESPACE}::{resource.kind}", "id": resource.name},
            "attrs": {
                "purposes": sorted(attributes.purposes),
                "tags": sorted(attributes.tags),
                "owner": attributes.owner,
            },
            "parents": [],
        }
        entities = bundle.principals.with_added_json_str(json.dumps([entity]), bundle.schema)
        request = {
            "principal": {"type": f"{NAMESPACE}::{kind}", "id": principal},
            "action": {"type": f"{NAMESPACE}::Action", "id": action},
            "resource": entity["uid"],
            "context": {"purpose": purpose, "delegated": delegated, "granted": granted},
        }
        result = cedarpy.is_authorized(request, bundle.policies, entities, bundle.schema)
        # Cedar passes over a policy that fails, and a forbid that fails would hold nobody back.
        permitted = result.decision == cedarpy.Decision.Allow and not result.diagnostics.errors
        return Decision(permitted, tuple(sorted(result.diagnostics.reasons)), bundle.version)
