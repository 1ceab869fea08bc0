"""The identity folder: whole identities only, private, the newest that is sound."""

from __future__ import annotations

import datetime as dt
import os
import stat
from pathlib import Path

import pytest

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import Identity, IdentityFolder, IdentityRenewer
from hedgerow.private_file import write_private
from tests.support.authority import Authority, user_id


def test_what_is_saved_is_loaded_and_private(tmp_path: Path) -> None:
    identity = Authority().user("ana")
    folder = IdentityFolder(tmp_path / "id")
    assert folder.load() is None
    folder.save(identity)
    assert folder.load() == identity
    assert identity.spiffe_id == user_id("ana")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["truncated", "foreign key", "empty"])
def test_a_damaged_identity_leaves_the_last_good_one(tmp_path: Path, damage: str) -> None:
    authority = Authority()
    folder = IdentityFolder(tmp_path)
    good, other = authority.user("ana"), authority.user("ana")
    folder.save(good)
    assert folder.current() == good
    content = {
        "truncated": (good.key_pem + good.chain_pem)[:-200],
        "foreign key": other.key_pem + good.chain_pem,
        "empty": b"",
    }[damage]
    (tmp_path / "identity.pem").write_bytes(content)
    assert folder.load() is None
    assert folder.current() == good
    assert folder.refused == 1
    folder.save(other)
    assert folder.current() == other


@pytest.mark.parametrize("uris", [(), ("https://a/b",), (user_id("a"), user_id("b"))])
def test_an_identity_has_exactly_one_spiffe_uri(uris: tuple[str, ...]) -> None:
    with pytest.raises(UnauthenticatedError):
        _ = Authority().issue(*uris).spiffe_id


def test_renewal_is_at_half_life_with_jitter_towards_earlier(tmp_path: Path) -> None:
    identity = Authority().user("ana", life=dt.timedelta(hours=1), age=dt.timedelta(0))
    born = identity.certificate.not_valid_before_utc

    async def never(identity: Identity) -> Identity:
        raise AssertionError

    for age, least, most in ((0, 1620, 1800), (900, 810, 900), (1800, 0, 0), (3700, 0, 0)):
        renewer = IdentityRenewer(IdentityFolder(tmp_path), never, now=lambda age=age: born + dt.timedelta(seconds=age))
        assert least - 1 <= renewer.seconds_until_renewal(identity) <= most + 1


def test_a_private_file_survives_a_power_cut_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is flushed before the rename, the folder after it."""
    path = tmp_path / "key"
    flushed: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_private(path, b"secret")
    assert flushed == [(False, False), (True, True)]
