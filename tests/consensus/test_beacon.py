"""Onions, mixes, turns and seeds: R2, R13, R21, R22 and R25."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from milepost_consensus.beacon import Onion, compute_link, compute_mix, compute_order
from milepost_consensus.election import compute_seed
from milepost_consensus.errors import InvalidBlock, InvalidInput
from milepost_consensus.params import BLOCK_HASH, Params
from milepost_consensus.payloads import Hold, OnionRefresh
from milepost_consensus.rules import build_block, check_tx, get_proposer, owes, validate_block
from milepost_consensus.standings import Standing, is_mixed, make_standing, peel
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer
from tests.support.validators import LINKS, make_onion

OWNER = make_hash("owner")


def make_small_onion(links: int = 5) -> Onion:
    return Onion(lambda purpose: make_hash("secret", purpose), OWNER, links=links)


def get_standing(ledger: Ledger, name: str) -> Standing:
    return ledger.state.standings[make_signer(name).public]


# Onions ------------------------------------------------------------------------------------------


def test_an_onion_is_peeled_layer_by_layer_to_its_end() -> None:
    onion = make_small_onion()
    standing = Standing(OWNER, onion=onion.get_head(0), onion_left=5)
    for height in range(1, 6):
        reveal = onion.get_reveal(standing)
        assert reveal is not None
        assert compute_link(OWNER, standing.onion_left, reveal) == standing.onion
        standing = peel(standing, reveal, height)
        assert (standing.onion, standing.onion_left, standing.revealed) == (
            reveal,
            5 - height,
            height,
        )
    assert onion.get_reveal(standing) is None


def test_another_onion_gives_no_reveal() -> None:
    onion = make_small_onion()
    for standing in (
        Standing(OWNER, onion=make_hash("other"), onion_left=5),
        Standing(OWNER, onion=onion.get_head(0), onion_left=4),
        Standing(OWNER, onion=onion.get_head(0), onion_left=6),
        Standing(OWNER, onion=onion.get_head(0), onion_left=5, generation=1),
        Standing(OWNER),
    ):
        assert onion.get_reveal(standing) is None


def test_links_are_bound_to_owner_and_place() -> None:
    assert compute_link(OWNER, 1, b"x") != compute_link(OWNER, 2, b"x")
    assert compute_link(OWNER, 1, b"x") != compute_link(make_hash("else"), 1, b"x")
    one, other = (
        Onion(make_signer(name).derive, make_signer(name).public, links=3) for name in ("a", "b")
    )
    assert one.get_head(0) != other.get_head(0) != one.get_head(1)


def test_the_mix_takes_in_reveals_and_says_where_there_was_none() -> None:
    mixes = {
        compute_mix(mix, reveal, height)
        for mix in (OWNER, make_hash("mix"))
        for reveal in (b"", make_hash("reveal"))
        for height in (1, 2)
    }
    assert len(mixes) == 6  # the height counts only where nothing was revealed


# Blocks ------------------------------------------------------------------------------------------


def test_every_block_of_round_0_moves_the_proposers_onion_and_the_mix() -> None:
    ledger = Ledger(make_genesis(4))
    for _ in range(9):
        before = ledger.state
        header = ledger.apply().header
        standing = before.standings[header.proposer]
        assert compute_link(header.proposer, standing.onion_left, header.reveal) == standing.onion
        assert ledger.state.mix == compute_mix(before.mix, header.reveal, header.height)
        after = ledger.state.standings[header.proposer]
        assert (after.onion, after.revealed) == (header.reveal, header.height)


def test_later_rounds_reveal_nothing_and_cost_those_who_missed_their_turn() -> None:
    ledger = Ledger(make_genesis(4))
    late = [get_proposer(ledger.state, 1, round_).id for round_ in range(3)]
    before = ledger.state
    header = ledger.apply(round_=2).header
    assert (header.proposer, header.reveal) == (late[2], b"")
    assert ledger.state.mix == compute_mix(before.mix, b"", 1)
    missed = {key: standing.missed for key, standing in ledger.state.standings.items()}
    assert {key: count for key, count in missed.items() if count} == {late[0]: 1, late[1]: 1}
    assert ledger.state.standings[late[2]].onion == before.standings[late[2]].onion


def test_rounds_without_end_cost_everybody_one_turn() -> None:
    ledger = Ledger(make_genesis(4))
    ledger.apply(round_=4_001)
    counts = Counter(s.missed for s in ledger.state.standings.values())
    assert counts == {1: 3, 0: 2}  # the proposer took its turn; the submitter has none


def test_turns_missed_in_a_row_lead_to_jail_and_one_taken_ends_the_row() -> None:
    ledger = Ledger(make_genesis(4, params=Params(max_missed_turns=2, jail_heights=6)))
    first = get_proposer(ledger.state, 1, 0).id
    ledger.apply(round_=1)
    while get_proposer(ledger.state, ledger.state.height + 1, 0).id != first:
        ledger.apply()
    assert ledger.state.standings[first].missed == 1
    ledger.apply(round_=1)
    jailed = ledger.state.standings[first]
    assert (jailed.missed, jailed.strikes, jailed.jailed_until) == (0, 1, ledger.state.height + 6)
    submission = ledger.start(make_record(intervals=2))
    assert first not in ledger.get(submission).quorum
    assert first in {member.id for member in ledger.state.validators}
    ledger.run(6)
    again = ledger.start(make_record("again", intervals=2))
    assert first in ledger.get(again).quorum
    assert ledger.state.standings[first].missed == 0


@pytest.mark.parametrize("reveal", [b"", b"short", make_hash("x")])
def test_a_proposer_has_no_choice_of_reveals(reveal: bytes) -> None:
    ledger = Ledger(make_genesis(4))
    state = ledger.state
    block = Ledger(make_genesis(4)).apply()
    header = replace(block.header, reveal=reveal, mix=compute_mix(state.mix, reveal, 1))
    with pytest.raises(InvalidBlock, match="layer"):
        validate_block(state, replace(block, header=header), now_ms=None)


def test_nothing_is_revealed_where_nothing_is_owed() -> None:
    ledger = Ledger(make_genesis(4, params=Params(seed_source=BLOCK_HASH)))
    proposer = get_proposer(ledger.state, 1, 0)
    assert not owes(ledger.state, proposer.id, 0)
    block, _ = build_block(ledger.state, round=0, proposer=proposer.id, txs=(), time_ms=0)
    forced = make_onion(make_signer(proposer.name)).get_reveal(ledger.state.standings[proposer.id])
    assert forced is not None
    mix = compute_mix(ledger.state.mix, forced, 1)
    header = replace(block.header, reveal=forced, mix=mix)
    with pytest.raises(InvalidBlock, match="none is owed"):
        validate_block(ledger.state, replace(block, header=header), now_ms=None)


def test_proposers_are_reshuffled_every_epoch() -> None:
    ledger = Ledger(make_genesis(7, params=Params(epoch_blocks=10)))
    first = ledger.state.proposers
    ledger.run(9)
    assert ledger.state.order_seed == ledger.state.mix
    assert ledger.state.proposers == compute_order(ledger.state.mix, ledger.state.validators)
    second = ledger.state.proposers
    assert second != first
    ledger.run(9)
    assert ledger.state.proposers == second
    ledger.run(1)
    assert ledger.state.proposers != second


@given(st.binary(min_size=32, max_size=32))
def test_every_validator_has_one_turn_in_each_round_of_the_order(seed: bytes) -> None:
    assert sorted(compute_order(seed, range(9))) == list(range(9))


# Seeds -------------------------------------------------------------------------------------------


def test_a_seed_waits_for_f_plus_one_members_that_reveal_after_the_submission() -> None:
    ledger = Ledger(make_genesis(7))
    ledger.run(3)
    submission = ledger.submit(make_record())
    ledger.hold(submission)  # f is 2: the first of three reveals
    assert ledger.get(submission).phase == "seeding"
    ledger.run(1)
    assert ledger.get(submission).seed == b""
    ledger.apply(round_=1)  # reveals nothing
    assert ledger.get(submission).seed == b""
    ledger.run(1)
    assert ledger.get(submission).seed == compute_seed(ledger.state.mix, submission)
    ledger.run(1)
    assert ledger.get(submission).phase == "retracing"


def test_the_same_member_twice_is_one_member() -> None:
    standings = [Standing(bytes([i]) * 32, revealed=height) for i, height in enumerate((5, 9, 3))]
    assert is_mixed(4, standings, 1)
    assert not is_mixed(5, standings, 1)
    assert not is_mixed(9, standings, 0)


def test_holding_late_does_not_choose_another_seed() -> None:
    early, late = (Ledger(make_genesis(4)) for _ in range(2))
    submission = early.submit(make_record())
    assert late.submit(make_record()) == submission
    early.run(2)
    late.run(2)
    fixed = early.get(submission).seed
    assert fixed
    assert late.get(submission).seed == fixed
    late.run(5)
    late.hold(submission)
    late.run(1)
    assert (late.get(submission).phase, late.get(submission).seed) == ("retracing", fixed)


def test_without_a_beacon_the_block_that_completes_the_holders_gives_the_seed() -> None:
    ledger = Ledger(make_genesis(4, params=Params(seed_source=BLOCK_HASH)))
    submission = ledger.submit(make_record())
    ledger.hold(submission)
    held = ledger.state.last_id
    ledger.apply()
    assert ledger.get(submission).seed == compute_seed(held, submission)


def test_a_beacon_that_stays_silent_leaves_the_submission_undecided() -> None:
    ledger = Ledger(make_genesis(4, params=Params(hold_window=5)))
    submission = ledger.submit(make_record())
    ledger.apply(
        [ledger.sign(Hold(submission), member.id) for member in ledger.state.validators],
        round_=1,
    )
    while ledger.get(submission).phase != "decided":
        assert ledger.state.height < 20
        ledger.apply(round_=1)
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.height) == ("UNDECIDED", 2 + 5)
    assert "beacon" in verdict.reason


# Fresh onions ------------------------------------------------------------------------------------


def test_the_next_onion_is_used_once_the_present_one_is_used_up() -> None:
    genesis = make_genesis(4)
    members = tuple(
        replace(m, onion=make_onion(make_signer(m.name))._get_chain(0)[2], onion_left=2)
        if m.onion_left
        else m
        for m in genesis.members
    )
    ledger = Ledger(replace(genesis, members=members))
    onion = make_onion(make_signer("node-0"))
    refresh = OnionRefresh(1, onion.get_head(1), LINKS)
    ledger.apply([ledger.sign(refresh, "node-0")])
    promised = get_standing(ledger, "node-0")
    assert (promised.next_left, promised.next_promised, promised.generation) == (LINKS, 1, 0)
    again = ledger.sign(refresh, "node-0")
    with pytest.raises(InvalidInput, match="promised already"):
        check_tx(ledger.state, again)
    ledger.run(7)  # two turns each, in whatever order
    used = get_standing(ledger, "node-0")
    assert (used.generation, used.next_left) == (1, 0)
    assert used.onion == onion.get_head(1)
    with pytest.raises(InvalidInput, match="the next one is 2"):
        check_tx(ledger.state, again)  # everybody knows that onion by now
    others = get_standing(ledger, "node-1")
    assert (others.onion_left, others.generation) == (0, 0)
    assert sum(bool(block.header.reveal) for block in ledger.blocks) == 8
    ledger.run(4)  # those without an onion owe nothing any more
    (last,) = (block.header for block in ledger.blocks[-4:] if block.header.reveal)
    assert last.proposer == make_signer("node-0").public


def test_the_promise_of_an_onion_is_a_digest_and_a_number_of_reveals() -> None:
    ledger = Ledger(make_genesis(4))
    onion = make_onion(make_signer("node-0"))
    head = onion.get_head(1)
    assert onion.links == LINKS
    for bad in ((head[:31], LINKS), (b"", 1), (head, 0)):
        refresh = OnionRefresh(1, *bad)
        with pytest.raises(InvalidInput, match="onion"):
            check_tx(ledger.state, ledger.sign(refresh, "node-0"))
    check_tx(ledger.state, ledger.sign(OnionRefresh(1, head, onion.links), "node-0"))


def test_an_onion_promised_later_counts_only_after_f_plus_one_others_revealed() -> None:
    ledger = Ledger(make_genesis(4))
    ledger.run(1)
    state = ledger.state
    proposer = get_proposer(state, 2, 0)
    fresh = replace(make_standing(proposer, 1), promised=1)
    standings = {**state.standings, proposer.id: fresh}
    assert not owes(dataclasses.replace(state, standings=standings), proposer.id, 0)
    ledger.run(3)
    later = {**ledger.state.standings, proposer.id: fresh}
    assert owes(dataclasses.replace(ledger.state, standings=later), proposer.id, 0)
