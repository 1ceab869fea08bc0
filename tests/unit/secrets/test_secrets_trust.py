"""The trust bundle: its rules hold for every order of events (field case TLS-06)."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hedgerow.errors import FailedPreconditionError
from services.secrets.trust import TrustBundle, from_record, to_record

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def one_root() -> TrustBundle:
    return TrustBundle().with_root("aa", "PEM A")


def test_version_grows_only_with_what_peers_must_learn() -> None:
    bundle = one_root()
    assert bundle.version == 1
    assert bundle.with_root("aa", "PEM A") is bundle
    issued = bundle.with_issued("aa", NOW + HOUR)
    assert issued.version == 1
    revoked = issued.with_revoked("1f", NOW + HOUR, NOW)
    assert revoked.version == 2
    assert revoked.with_revoked("1f", NOW + HOUR, NOW) is revoked
    assert revoked.pruned(NOW) is revoked
    assert revoked.pruned(NOW + HOUR).version == 3


def test_roots_pem_does_not_depend_on_the_order_of_arrival() -> None:
    forward = one_root().with_root("bb", "PEM B\n")
    backward = TrustBundle().with_root("bb", "PEM B").with_root("aa", "PEM A\n")
    assert forward.roots_pem == backward.roots_pem == "PEM A\nPEM B\n"


def test_revoked_serials_are_sorted_and_leave_when_their_certificates_expire() -> None:
    bundle = one_root().with_revoked("b", NOW + 2 * HOUR, NOW).with_revoked("a", NOW + HOUR, NOW)
    assert bundle.revoked_serials == ["a", "b"]
    assert bundle.pruned(NOW + HOUR).revoked_serials == ["b"]


def test_an_expired_certificate_is_not_listed() -> None:
    bundle = one_root()
    assert bundle.with_revoked("a", NOW, NOW) is bundle


def test_nothing_is_issued_under_a_root_that_is_not_trusted() -> None:
    with pytest.raises(FailedPreconditionError, match="not trusted yet"):
        one_root().with_issued("bb", NOW + HOUR)


def test_the_only_root_cannot_be_removed() -> None:
    with pytest.raises(FailedPreconditionError, match="only root"):
        one_root().without_root("aa", NOW)


def test_a_root_in_use_is_held_until_its_last_certificate_expires() -> None:
    bundle = one_root().with_issued("aa", NOW + HOUR).with_root("bb", "PEM B")
    with pytest.raises(FailedPreconditionError, match=r"2026-11-25T13:00:00Z: a live certificate"):
        bundle.without_root("aa", NOW)
    kept, held = bundle.reconciled({"bb": "PEM B"}, NOW)
    assert (set(kept.roots), held) == ({"aa", "bb"}, ["aa"])
    gone, held = bundle.reconciled({"bb": "PEM B"}, NOW + HOUR)
    assert (set(gone.roots), held) == ({"bb"}, [])
    assert gone.version == bundle.version + 1


def test_reconciling_replaces_all_roots_without_a_moment_of_none() -> None:
    bundle, held = one_root().reconciled({"bb": "PEM B"}, NOW)
    assert (set(bundle.roots), held, bundle.version) == ({"bb"}, [], 3)


def test_no_roots_there_never_empties_the_bundle() -> None:
    bundle, held = one_root().reconciled({}, NOW)
    assert (set(bundle.roots), held) == ({"aa"}, ["aa"])


@given(
    st.lists(st.sampled_from(["aa", "bb", "cc"]), max_size=4),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
)
def test_a_stored_bundle_reads_back_the_same(roots: list[str], revoked: dict[str, int]) -> None:
    bundle = one_root()
    for root in roots:
        bundle = bundle.with_root(root, f"PEM {root}").with_issued(root, NOW + HOUR)
    for serial, hours in revoked.items():
        bundle = bundle.with_revoked(serial, NOW + hours * HOUR, NOW)
    assert from_record(to_record(bundle)) == bundle


class RootRotation(RuleBasedStateMachine):
    """Services renew in any order while the operator adds roots, moves the issuer and drops roots.

    The claim: whoever presents a live certificate is trusted by every peer, however old that peer's bundle may be within
    the one interval in which changes spread.
    """

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.bundle = one_root()
        self.held_there = {"aa": "PEM A"}
        self.issuer = "aa"
        self.certificates: dict[str, tuple[str, dt.datetime]] = {}
        self.seen: dict[str, frozenset[str]] = {}
        self.versions = [1]

    def _publish(self, bundle: TrustBundle) -> None:
        self.bundle = bundle
        self.versions.append(bundle.version)

    @rule(root=st.sampled_from(["bb", "cc"]))
    def add_root(self, root: str) -> None:
        self.held_there[root] = f"PEM {root}"
        self._publish(self.bundle.reconciled(self.held_there, self.now)[0])
        # The operator waits for the interval before the next step.
        self.seen = dict.fromkeys(self.seen, frozenset(self.bundle.roots))

    @precondition(lambda self: len(self.held_there) > 1)
    @rule(data=st.data())
    def move_issuer(self, data: st.DataObject) -> None:
        self.issuer = data.draw(st.sampled_from(sorted(self.held_there)))

    @precondition(lambda self: len(self.held_there) > 1)
    @rule(data=st.data())
    def drop_root(self, data: st.DataObject) -> None:
        candidates = sorted(set(self.held_there) - {self.issuer})
        if candidates:
            del self.held_there[data.draw(st.sampled_from(candidates))]
            self._publish(self.bundle.reconciled(self.held_there, self.now)[0])

    @rule(service=st.sampled_from(["ingestion", "features", "training"]))
    def renew(self, service: str) -> None:
        expire_time = self.now + HOUR
        self._publish(self.bundle.with_root(self.issuer, "PEM").with_issued(self.issuer, expire_time))
        self.certificates[service] = (self.issuer, expire_time)
        self.seen[service] = frozenset(self.bundle.roots)

    @rule(service=st.sampled_from(["ingestion", "features", "training"]))
    def learn(self, service: str) -> None:
        if service in self.seen:
            self.seen[service] = frozenset(self.bundle.roots)

    @rule(minutes=st.integers(1, 90))
    def wait(self, minutes: int) -> None:
        self.now += dt.timedelta(minutes=minutes)
        self._publish(self.bundle.reconciled(self.held_there, self.now)[0].pruned(self.now))

    @invariant()
    def every_live_certificate_is_trusted_by_every_peer(self) -> None:
        for root, expire_time in self.certificates.values():
            if self.now < expire_time:
                assert root in self.bundle.roots
                assert all(root in roots for roots in self.seen.values())

    @invariant()
    def versions_never_fall(self) -> None:
        assert self.versions == sorted(self.versions)


TestRootRotation = RootRotation.TestCase
