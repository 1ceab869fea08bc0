"""Merkle proofs against a tree computed straight from the text of RFC 6962."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.audit.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    root,
    verify_consistency,
    verify_inclusion,
)


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) as the RFC defines it, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


LEAVES = [sha256(b"\x00" + bytes([number])).digest() for number in range(70)]
SIZES = st.integers(0, len(LEAVES))


@pytest.mark.parametrize("size", range(len(LEAVES) + 1))
def test_root_equals_the_naive_tree(size: int) -> None:
    assert root(LEAVES[:size]) == naive_root(LEAVES[:size])


def test_root_of_the_rfc_9162_reference_leaves() -> None:
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [sha256(b"\x00" + bytes.fromhex(text)).digest() for text in inputs]
    assert root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_frontier_goes_on_from_its_roots() -> None:
    for size in range(len(LEAVES)):
        tree = Frontier()
        for leaf in LEAVES[:size]:
            tree.append(leaf)
        resumed = Frontier(size, tree.roots)
        resumed.append(LEAVES[size])
        assert resumed.root() == naive_root(LEAVES[: size + 1])


def test_frontier_refuses_a_wrong_number_of_roots() -> None:
    with pytest.raises(ValueError, match="full subtrees"):
        Frontier(3, LEAVES[:1])


@given(st.integers(1, len(LEAVES)), st.data())
def test_inclusion_proof_verifies_for_its_leaf_only(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(LEAVES[:size], index)
    expected = naive_root(LEAVES[:size])
    assert verify_inclusion(LEAVES[index], index, size, proof, expected)
    other = data.draw(st.integers(0, size).filter(lambda number: number != index))
    assert not verify_inclusion(LEAVES[index], other, size, proof, expected)
    assert not verify_inclusion(sha256(b"another").digest(), index, size, proof, expected)
    assert not verify_inclusion(LEAVES[index], index, size, [*proof, expected], expected)


@given(SIZES, SIZES)
def test_consistency_proof_verifies(first: int, second: int) -> None:
    old, new = sorted((first, second))
    proof = consistency_proof(LEAVES[:new], old)
    assert verify_consistency(old, naive_root(LEAVES[:old]), new, naive_root(LEAVES[:new]), proof)


@given(st.integers(2, len(LEAVES)), st.data())
def test_consistency_proof_refuses_a_rewritten_prefix(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    rewritten = [*LEAVES[:changed], sha256(b"rewritten").digest(), *LEAVES[changed + 1 : new]]
    before = naive_root(LEAVES[:old])
    proof = consistency_proof(rewritten, old)
    assert not verify_consistency(old, before, new, naive_root(rewritten), proof)
    assert not verify_consistency(old, before, new, naive_root(rewritten), consistency_proof(LEAVES[:new], old))


def test_proofs_of_absent_leaves_are_refused() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES[:4], 4)
    with pytest.raises(IndexError):
        consistency_proof(LEAVES[:4], 5)
    assert not verify_inclusion(LEAVES[0], 0, 0, [], LEAVES[0])
    assert not verify_consistency(3, LEAVES[0], 2, LEAVES[1], [])
    assert not verify_consistency(1, LEAVES[0], 2, LEAVES[1], [])
