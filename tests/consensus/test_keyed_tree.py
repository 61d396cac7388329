"""The kept tree against the one that is computed anew, after every write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost_consensus.keyed_tree import KeyedTree
from milepost_consensus.merkle import (
    EMPTY_ROOT,
    compute_leaf_hash,
    compute_path_of_hashes,
    compute_root_of_hashes,
)

KEYS = st.binary(min_size=1, max_size=2)
WRITES = st.lists(st.dictionaries(KEYS, st.binary(max_size=3), max_size=12), max_size=12)


def check(tree: KeyedTree, entries: dict[bytes, bytes]) -> None:
    """Root, order, hashes and paths are those of the sorted entries."""
    keys = sorted(entries)
    hashes = [entries[key] for key in keys]
    assert list(tree) == keys
    assert len(tree) == len(keys)
    assert tree.root == compute_root_of_hashes(hashes)
    for index, key in enumerate(keys):
        assert tree[key] == hashes[index]
        assert tree.get_index(key) == index
        assert tree.get_path(key) == compute_path_of_hashes(hashes, index)


@settings(deadline=None)
@given(WRITES)
def test_every_write_leads_to_the_tree_of_all_entries(writes: list[dict[bytes, bytes]]) -> None:
    tree, entries = KeyedTree(), dict[bytes, bytes]()
    for write in writes:
        before, old = tree, dict(entries)
        hashes = {key: compute_leaf_hash(value) for key, value in write.items()}
        tree, entries = tree.write(hashes), {**entries, **hashes}
        check(tree, entries)
        check(before, old)


def test_all_sizes_with_a_change_or_a_new_entry_at_every_place() -> None:
    for size in range(18):
        entries = {bytes([2 * i + 1]): compute_leaf_hash(bytes([i])) for i in range(size)}
        tree = KeyedTree().write(entries)
        for place in range(2 * size + 2):
            change = {bytes([place]): compute_leaf_hash(b"changed")}
            check(tree.write(change), {**entries, **change})


def test_nothing_in_it() -> None:
    assert KeyedTree().root == EMPTY_ROOT
    assert b"" not in KeyedTree()
    with pytest.raises(KeyError):
        KeyedTree().write({b"a": b"a" * 32}).get_path(b"b")
