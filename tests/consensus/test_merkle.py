"""Merkle trees against the published vectors of RFC 6962 and against the RFC's own recursion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.errors import InvalidPath
from milepost_consensus.merkle import (
    EMPTY_ROOT,
    compute_leaf_hash,
    compute_path,
    compute_path_of_hashes,
    compute_root,
    compute_root_of_hashes,
    verify_path,
)

# The reference leaves and roots of the Certificate Transparency log test suite.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def compute_rfc_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if len(leaves) <= 1:
        return hashlib.sha256(b"".join(b"\x00" + leaf for leaf in leaves)).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    halves = compute_rfc_root(leaves[:split]) + compute_rfc_root(leaves[split:])
    return hashlib.sha256(b"\x01" + halves).digest()


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_of_the_certificate_transparency_vectors(count: int) -> None:
    assert compute_root(CT_LEAVES[:count]).hex() == CT_ROOTS[count - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert compute_root([]) == compute_root_of_hashes([]) == EMPTY_ROOT
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT


@given(LEAVES)
def test_root_follows_the_recursion_of_the_rfc(leaves: list[bytes]) -> None:
    assert compute_root(leaves) == compute_rfc_root(leaves)
    hashes = [compute_leaf_hash(leaf) for leaf in leaves]
    assert compute_root_of_hashes(hashes) == compute_root(leaves)


@given(LEAVES, st.data())
def test_every_leaf_has_a_path_and_only_in_its_place(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = compute_root(leaves), compute_path(leaves, index)
    verify_path(root, leaves[index], index=index, count=len(leaves), path=path)
    hashes = [compute_leaf_hash(leaf) for leaf in leaves]
    assert compute_path_of_hashes(hashes, index) == path
    elsewhere = data.draw(st.integers(0, len(leaves) - 1))
    if elsewhere != index:
        with pytest.raises(InvalidPath):
            # The same leaf bytes may stand in both places; their paths still differ.
            verify_path(root, leaves[index] + b"!", index=elsewhere, count=len(leaves), path=path)
        if leaves[elsewhere] != leaves[index]:
            with pytest.raises(InvalidPath):
                verify_path(root, leaves[index], index=elsewhere, count=len(leaves), path=path)


@given(LEAVES, st.data())
def test_changed_paths_lead_elsewhere(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = compute_root(leaves), list(compute_path(leaves, index))
    variants = [[*path, bytes(32)]]
    if path:
        variants += [path[:-1], path[1:], [bytes(32), *path[1:]]]
    for variant in variants:
        with pytest.raises(InvalidPath):
            verify_path(root, leaves[index], index=index, count=len(leaves), path=variant)


def test_a_node_is_never_taken_for_a_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    root, left = compute_root(leaves), compute_leaf_hash(b"a") + compute_leaf_hash(b"b")
    right = compute_root(leaves[2:])
    with pytest.raises(InvalidPath):
        verify_path(root, left, index=0, count=2, path=[right])


@pytest.mark.parametrize(("index", "count"), [(-1, 3), (3, 3), (0, 0), (0, -1)])
def test_positions_outside_the_tree_are_refused(index: int, count: int) -> None:
    with pytest.raises(InvalidPath):
        verify_path(compute_root([b"a"]), b"a", index=index, count=count, path=[])


def test_the_path_of_a_missing_leaf_is_our_own_error() -> None:
    for index in (-1, 2):
        with pytest.raises(IndexError):
            compute_path([b"a", b"b"], index)
