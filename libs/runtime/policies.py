"""The policy bundle a service works by: the last signed one it kept, then whatever governance streams."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from hedgerow.errors import HedgerowError, UnavailableError
from hedgerow.private_file import write_private
from libs.authz import Authorizer, Bundle, compile_bundle, verify_envelope
from libs.telemetry import get_logger

log = get_logger()


class PolicyFile:
    """The kept bundle, ``policy/bundle.json``, and the keys it must be signed with, ``policy-keys.json``."""

    def __init__(self, data_dir: Path, trust_dir: Path) -> None:
        self._path = data_dir / "policy" / "bundle.json"
        self._keys = trust_dir / "policy-keys.json"

    def _public_keys(self) -> dict[int, bytes]:
        stored = json.loads(self._keys.read_text())
        return {int(version): base64.b64decode(key) for version, key in stored.items()}

    def load(self) -> Authorizer:
        """Return an authoriser with the kept bundle.

        Raises:
            UnavailableError: none is kept yet.
            DataLossError: its signature does not verify.
        """
        try:
            envelope = json.loads(self._path.read_text())
        except FileNotFoundError:
            raise UnavailableError("there is no policy bundle yet; no call can be permitted") from None
        return Authorizer(compile_bundle(verify_envelope(envelope, self._public_keys())))

    def keep(self, bundle: Any) -> Bundle | None:
        """Verify, compile and keep a bundle that governance sent; return None for one that is refused.

        Blocking: call it in a worker thread, and put what it returns in force on the event loop.
        """
        compiled = self.judge(bundle)
        if compiled is not None:
            write_private(self._path, json.dumps(_envelope(bundle)).encode())
        return compiled

    def judge(self, bundle: Any) -> Bundle | None:
        """Do all that ``keep`` does but for keeping it."""
        try:
            compiled = compile_bundle(verify_envelope(_envelope(bundle), self._public_keys()))
        except HedgerowError as error:
            log.error("policy_bundle_refused", version=bundle.version, reason=error.reason)
            return None
        if compiled.version != bundle.version:
            log.error("policy_bundle_refused", version=bundle.version, reason="VERSION_MISMATCH")
            return None
        return compiled


def _envelope(bundle: Any) -> dict[str, Any]:
    return {
        "content": base64.b64encode(bundle.content).decode(),
        "signature": base64.b64encode(bundle.signature).decode(),
        "key_version": bundle.key_version,
    }
