"""The ledger state: one root for one content, provable entries, nothing changed in place."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import compute_network_id
from milepost_consensus.merkle import compute_root, verify_path
from milepost_consensus.params import Params
from milepost_consensus.state import (
    LedgerState,
    apply_entries,
    compute_state_root,
    encode_leaf,
    get_changed_entries,
    get_entry,
    get_entry_path,
    get_member_key,
    get_standing_key,
    get_submission_key,
    get_verdict_key,
    make_initial_state,
)
from tests.support.ledger import Ledger, make_genesis, make_record, rebuild


def make_busy_ledger() -> tuple[Ledger, bytes]:
    """A ledger with one decided and one open submission."""
    ledger = Ledger(make_genesis())
    first = ledger.start(make_record("first"))
    ledger.attest_open(first)
    ledger.run_until(first, "decided")
    ledger.start(make_record("second"))
    return ledger, first


def compute_plain_root(state: LedgerState) -> bytes:
    """The root as the module's docstring says, without any cache."""
    keys = [
        b"membership",
        *(b"member/" + each for each in state.members),
        *(b"standing/" + each for each in state.standings),
        *(b"submission/" + each for each in state.submissions),
        *(b"verdict/" + each for each in state.verdicts),
    ]
    return compute_root([encode_leaf(key, get_entry(state, key)) for key in sorted(keys)])


def test_the_first_state_is_that_of_the_genesis() -> None:
    genesis = make_genesis()
    state = make_initial_state(genesis)
    assert (state.height, state.last_id, state.network) == (
        0,
        compute_network_id(genesis),
        compute_network_id(genesis),
    )
    assert state.last_time_ms == genesis.time_ms
    assert set(state.members) == {member.id for member in genesis.members}
    assert (state.submissions, state.verdicts) == ({}, {})
    assert len(state.validators) == len(state.verifiers) == 7


def test_an_unusable_genesis_gives_no_state() -> None:
    with pytest.raises(InvalidInput):
        make_initial_state(make_genesis(params=Params(rule="coin")))


def test_the_root_is_the_documented_merkle_root_at_every_height() -> None:
    ledger = Ledger(make_genesis())
    assert compute_state_root(ledger.state) == compute_plain_root(ledger.state)
    submission = ledger.start(make_record())
    assert ledger.state.root == compute_plain_root(ledger.state)
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    assert ledger.state.root == compute_plain_root(ledger.state)


def test_a_rebuilt_state_is_the_same_state() -> None:
    ledger, _ = make_busy_ledger()
    state = ledger.state
    rebuilt = rebuild(state)
    assert rebuilt.root == state.root
    assert rebuilt.open_submissions == state.open_submissions


def test_every_entry_has_a_path_to_the_root() -> None:
    ledger, decided = make_busy_ledger()
    state = ledger.state
    assert len(state.sorted_keys) == 8 + 1 + 8 + 2 + 1
    for key in state.sorted_keys:
        leaf, index, count, path = get_entry_path(state, key)
        assert leaf == encode_leaf(key, get_entry(state, key))
        verify_path(state.root, leaf, index=index, count=count, path=path)
    assert get_entry(state, get_verdict_key(decided)) == state.verdicts[decided]


def test_missing_entries_have_no_path() -> None:
    state = make_initial_state(make_genesis())
    for key in (
        get_member_key(bytes(32)),
        get_submission_key(bytes(32)),
        get_verdict_key(bytes(32)),
        b"other",
    ):
        with pytest.raises(KeyError):
            get_entry_path(state, key)


def test_writing_entries_leaves_the_old_state_alone() -> None:
    ledger, decided = make_busy_ledger()
    before = ledger.state
    root, verdict = before.root, before.verdicts[decided]
    after = apply_entries(before, verdicts={decided: replace(verdict, reason="other")})
    assert before.verdicts[decided] == verdict
    assert compute_plain_root(before) == root
    assert after.root == compute_plain_root(after) != root
    assert apply_entries(before) is before


def test_changed_entries_are_what_a_store_must_write() -> None:
    ledger, decided = make_busy_ledger()
    before = ledger.state
    third = ledger.submit(make_record("third"))
    proposer = ledger.blocks[-1].header.proposer
    assert get_changed_entries(before, ledger.state) == {
        get_submission_key(third): ledger.get(third),
        get_standing_key(proposer): ledger.state.standings[proposer],
    }
    everything = get_changed_entries(make_initial_state(before.genesis), before)
    assert get_verdict_key(decided) in everything
    assert {key.split(b"/")[0] for key in everything} == {b"submission", b"verdict", b"standing"}


def test_open_submissions_are_ordered_by_age() -> None:
    ledger, decided = make_busy_ledger()
    for i in range(4):
        ledger.submit(make_record(f"more-{i}"))
    heights = [each.anchored_height for each in ledger.state.open_submissions]
    assert heights == sorted(heights)
    assert len(heights) == 5
    assert decided not in {each.id for each in ledger.state.open_submissions}
