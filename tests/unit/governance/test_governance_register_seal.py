"""The register of erasures keeps no subject in clear, and finds what was changed or moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hedgerow.errors import DataLossError
from services.governance.erasure import ErasureRequest
from services.governance.register_seal import RegisterSeal

REQUEST = replace(
    ErasureRequest("a" * 32, "r", "credit", "ce80a112f8e269263d7a2ac52fc7cd3c", 1), receipt=b'{"s":"ce80"}'
)


def test_what_is_kept_shows_no_subject_and_opens_again() -> None:
    seal = RegisterSeal(bytes(range(32)))
    kept = seal.close(REQUEST)
    assert REQUEST.subject_hash not in kept.subject_hash
    assert b"ce80" not in kept.receipt
    assert len(kept.subject_hash) <= 128
    assert seal.open(kept) == REQUEST
    assert seal.close(REQUEST).subject_hash != kept.subject_hash


def test_what_was_changed_or_moved_does_not_open() -> None:
    seal = RegisterSeal(bytes(range(32)))
    kept = seal.close(REQUEST)
    for broken in (
        replace(kept, id="b" * 32),
        replace(kept, receipt=kept.receipt[:-1] + bytes([kept.receipt[-1] ^ 1])),
        replace(kept, subject_hash=REQUEST.subject_hash),
        replace(kept, subject_hash="no hexadecimal"),
        replace(kept, receipt=b""),
    ):
        with pytest.raises(DataLossError):
            seal.open(broken)
    with pytest.raises(DataLossError):
        RegisterSeal(bytes(32)).open(kept)
