"""What a service shows of itself beside its calls: identity, policies, revocations, audit, threads and the event loop.

Everything is asked for when somebody scrapes, so that it costs nothing in between.
"""

from __future__ import annotations

import resource
import time

from hedgerow.identity import IdentityFolder
from libs.audit import AuditWriter
from libs.authz import Authorizer
from libs.telemetry import Instruments


class Watches:
    """Since when this process has not been told by those it follows what holds."""

    def __init__(self, instruments: Instruments) -> None:
        self._broken_since: dict[str, float] = {}
        instruments.read_gauge(
            "hedgerow_watch_age_seconds",
            "Seconds since a watch broke off: how old what it brings may be; 0 while it is open.",
            lambda: {(name,): time.time() - since if since else 0.0 for name, since in self._broken_since.items()},
            ["watch"],
        )

    def opened(self, name: str) -> None:
        """Note that a watch has brought something."""
        self._broken_since[name] = 0.0

    def broken(self, name: str) -> None:
        """Note that a watch is not open."""
        if not self._broken_since.get(name):
            self._broken_since[name] = time.time()


def show_identity(instruments: Instruments, folder: IdentityFolder) -> None:
    """Show when the certificate expires, and how often a stored one could not be used."""

    def expiry() -> dict[tuple[str, ...], float]:
        identity = folder.current()
        return {(): identity.expire_time.timestamp() if identity else 0.0}

    instruments.read_gauge(
        "hedgerow_certificate_expire_time_seconds",
        "When this service's certificate expires, seconds since 1970.",
        expiry,
    )
    instruments.read_counter(
        "hedgerow_certificate_refused",
        "Changed identities on disk that could not be used.",
        lambda: {(): folder.refused},
    )


def show_children(instruments: Instruments) -> None:
    """Show the processor time of processes this one started, such as those that train; each counts once it has ended."""

    def seconds() -> dict[tuple[str, ...], float]:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {(): usage.ru_utime + usage.ru_stime}

    instruments.read_counter(
        "hedgerow_children_cpu_seconds", "Processor seconds of ended child processes, user and system.", seconds
    )


def show_policies(instruments: Instruments, authorizer: Authorizer) -> None:
    """Show which bundle decides."""
    instruments.read_gauge(
        "hedgerow_policy_bundle_version", "Version of the policy bundle in force.", lambda: {(): authorizer.version}
    )


def show_audit(instruments: Instruments, writer: AuditWriter) -> None:
    """Show how the audit trail does; it is refused calls that a person wants to hear of first."""
    # A chain outlives its process, and its next one may be another's: counted from here on, restarts add up.
    begun = writer.status().sequence
    instruments.read_gauge(
        "hedgerow_audit_waiting", "Audit events that wait for the disk.", lambda: {(): writer.status().waiting}
    )
    instruments.read_gauge(
        "hedgerow_audit_refusing",
        "1 while calls are refused because no audit event can be written.",
        lambda: {(): bool(writer.status().refusing)},
    )
    instruments.read_gauge(
        "hedgerow_audit_unshipped_segments",
        "Sealed audit segments that governance has not taken over.",
        lambda: {(): writer.status().unshipped},
    )
    instruments.read_counter(
        "hedgerow_audit_events",
        "Audit events on disk since the process started.",
        lambda: {(): writer.status().sequence - begun},
    )
