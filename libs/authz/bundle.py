"""Policy bundles: policies and principals as one canonical, signed unit.

Rules for a bundle to be used: its signature verifies under a known key; each policy has an ``@id`` of its own; every
policy type-checks against the schema; every principal is a SPIFFE ID with known fields. A bundle that breaks one rule is
refused whole and the bundle in force stays.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hedgerow.errors import DataLossError, InvalidArgumentError

SCHEMA_FILE = Path(__file__).with_name("hedgerow.cedarschema")
NAMESPACE = "Hedgerow"
MAX_PRINCIPALS = 10_000


@dataclass(frozen=True)
class Bundle:
    """A compiled bundle.

    Attributes:
        version: grows with each bundle.
        policies: parsed policies, keyed by their ``@id``.
        schema: the parsed schema.
        principals: the entities of all principals and roles.
        known: SPIFFE IDs of the principals.
    """

    version: int
    policies: cedarpy.PolicySet
    schema: cedarpy.Schema
    principals: cedarpy.Entities
    known: frozenset[str]


def encode_bundle(version: int, policies: str, principals: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of a bundle: the bytes that are signed."""
    content = {"version": version, "policies": policies, "principals": dict(principals)}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def compile_bundle(content: bytes) -> Bundle:
    """Return the compiled form of a bundle.

    Raises:
        InvalidArgumentError: it is not a bundle, or a policy or principal does not fit the schema.
    """
    try:
        data = json.loads(content)
        version, source, principals = int(data["version"]), str(data["policies"]), dict(data["principals"])
    except (ValueError, KeyError, TypeError) as error:
        raise _refused("content", "expected JSON with version, policies and principals") from error
    schema = cedarpy.Schema.from_str(SCHEMA_FILE.read_text())
    return Bundle(
        version=version,
        policies=_policy_set(source, schema),
        schema=schema,
        principals=_principal_entities(principals, schema),
        known=frozenset(principals),
    )


def _policy_set(source: str, schema: cedarpy.Schema) -> cedarpy.PolicySet:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(source))
    except ValueError as error:
        raise _refused("policies", f"not Cedar: {str(error)[:300]}") from error
    named: dict[str, Any] = {}
    for policy in parsed["staticPolicies"].values():
        identifier = policy.get("annotations", {}).get("id")
        if not identifier or identifier in named:
            raise _refused("policies", f"each policy needs an @id of its own, found {identifier!r} missing or twice")
        named[identifier] = policy
    result = cedarpy.validate_policies(source, schema)
    if not result.validation_passed:
        raise _refused("policies", "; ".join(str(error)[:300] for error in result.errors[:5]))
    parsed["staticPolicies"] = named
    return cedarpy.PolicySet.from_json_str(json.dumps(parsed))


def _principal_entities(principals: Mapping[str, Any], schema: cedarpy.Schema) -> cedarpy.Entities:
    if len(principals) > MAX_PRINCIPALS:
        raise _refused("principals", f"at most {MAX_PRINCIPALS}")
    roles: set[str] = set()
    entities: list[dict[str, Any]] = []
    for spiffe_id, fields in principals.items():
        kind, name = principal_kind(spiffe_id), spiffe_id.rsplit("/", 1)[-1]
        if kind is None or not isinstance(fields, dict) or set(fields) - {"roles", "purposes"}:
            raise _refused(f"principals[{spiffe_id}]", "expected a SPIFFE ID with roles and purposes")
        roles.update(fields.get("roles", ()))
        entities.append(
            {
                "uid": {"type": f"{NAMESPACE}::{kind}", "id": spiffe_id},
                "attrs": {"name": name, "purposes": list(fields.get("purposes", ()))},
                "parents": [{"type": f"{NAMESPACE}::Role", "id": role} for role in fields.get("roles", ())],
            }
        )
    entities += [{"uid": {"type": f"{NAMESPACE}::Role", "id": r}, "attrs": {}, "parents": []} for r in sorted(roles)]
    try:
        return cedarpy.Entities.from_json_str(json.dumps(entities), schema)
    except ValueError as error:
        raise _refused("principals", str(error)[:300]) from error


def principal_kind(spiffe_id: str) -> str | None:
    """Return the entity type of a SPIFFE ID: ``User``, ``Service``, or None for neither."""
    parts = spiffe_id.split("/")
    if len(parts) != 5 or parts[0] != "spiffe:" or not parts[4]:
        return None
    return {"user": "User", "service": "Service"}.get(parts[3])


def _refused(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the policy bundle is refused: {field}: {what}", fields={field: what})


def verify_envelope(envelope: Mapping[str, Any], keys: Mapping[int, bytes]) -> bytes:
    """Return the content of a signed bundle.

    Args:
        envelope: ``content`` and ``signature`` in base64, ``key_version``.
        keys: raw ed25519 public keys by version.

    Raises:
        DataLossError: the signature does not verify, or its key is unknown.
    """
    content = base64.b64decode(envelope["content"])
    verify_signature(content, base64.b64decode(envelope["signature"]), keys, int(envelope["key_version"]))
    return content


def verify_signature(content: bytes, signature: bytes, keys: Mapping[int, bytes], key_version: int) -> None:
    """Check a bundle's signature.

    Raises:
        DataLossError: it does not verify, or its key is unknown.
    """
    key = keys.get(key_version)
    if key is None:
        raise DataLossError("the policy bundle is signed by an unknown key version")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
    except InvalidSignature as error:
        raise DataLossError("the policy bundle's signature does not verify") from error
