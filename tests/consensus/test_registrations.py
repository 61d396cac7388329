"""Registered runs: the beacon's seed, what a submission may claim of it, and lineage."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.crypto import compute_digest
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import Params
from milepost_consensus.payloads import Register, compute_registration_id
from milepost_consensus.registrations import Registration
from milepost_consensus.rules import check_tx, get_block_delay_ms
from milepost_consensus.state import get_entry, get_registration_key
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record, make_signer

SHORT = Params(hold_window=6, attest_window=6, witness_window=2, panel_window=4)
PLAIN = make_record().submit
SENDER = make_signer("submitter").public


def make_register(attempt: int = 0, **changes: object) -> Register:
    register = Register(make_hash("bare"), PLAIN.dataset_root, PLAIN.records, b"", attempt)
    return replace(register, **changes)


def start(params: Params = SHORT) -> Ledger:
    return Ledger(make_genesis(4, params=params, submitters=("submitter", "other")))


def register(ledger: Ledger, attempt: int = 0, **changes: object) -> bytes:
    """Register and wait for the seed; returns the registration's id."""
    payload = make_register(attempt, **changes)
    ledger.apply([ledger.sign(payload, "submitter")])
    key = compute_registration_id(SENDER, payload, ledger.state.network)
    for _ in range(20):
        if get(ledger, key).seed:
            return key
        ledger.apply()
    raise AssertionError("the beacon gave no seed")


def get(ledger: Ledger, key: bytes) -> Registration:
    return ledger.state.registrations[key]


def decide(ledger: Ledger, record: Record) -> bytes:
    submission = ledger.start(record)
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    return submission


def refuse(ledger: Ledger, record: Record, slug: str, sender: str = "submitter") -> None:
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(record.submit, sender))
    assert caught.value.slug == slug


def test_the_seed_is_the_first_mix_that_an_honest_reveal_went_into() -> None:
    ledger = start()
    payload = make_register()
    ledger.apply([ledger.sign(payload, "submitter")])
    key = compute_registration_id(SENDER, payload, ledger.state.network)
    assert get(ledger, key) == Registration(key, SENDER, payload, height=1)
    assert get_entry(ledger.state, get_registration_key(key)) == get(ledger, key)
    ledger.run(1)
    assert get(ledger, key).seed == b""  # one reveal of four members may be a liar's
    ledger.run(1)
    assert get(ledger, key).seed == compute_digest("registered", ledger.state.mix + key)
    seed = get(ledger, key).seed
    ledger.run(3)
    assert get(ledger, key).seed == seed


def test_where_blocks_give_seeds_it_is_the_id_of_the_block_that_carries_it() -> None:
    ledger = start(replace(SHORT, seed_source="block_hash"))
    payload = make_register()
    ledger.apply([ledger.sign(payload, "submitter")])
    carrier = ledger.state.last_id
    ledger.run(1)
    key = compute_registration_id(SENDER, payload, ledger.state.network)
    assert get(ledger, key).seed == compute_digest("registered", carrier + key)


def test_blocks_are_made_for_a_seed_but_not_for_ever() -> None:
    ledger = start()
    assert get_block_delay_ms(ledger.state) is None
    ledger.apply([ledger.sign(make_register(), "submitter")])
    assert get_block_delay_ms(ledger.state) == ledger.state.params.min_block_ms
    quiet = start()
    quiet.apply([quiet.sign(make_register(), "submitter")])
    for _ in range(SHORT.hold_window):
        assert get_block_delay_ms(quiet.state) == SHORT.min_block_ms
        quiet.apply(round_=1)  # later rounds reveal nothing
    assert get_block_delay_ms(quiet.state) is None
    ledger.run(2)
    assert get_block_delay_ms(ledger.state) is None


def test_registering_again_is_another_registration_and_is_counted() -> None:
    ledger = start()
    first, second = register(ledger), register(ledger, attempt=1)
    assert get(ledger, first).seed != get(ledger, second).seed
    assert ledger.state.standings[SENDER].registrations == 2
    with pytest.raises(InvalidInput, match="made 2 registrations") as caught:
        check_tx(ledger.state, ledger.sign(make_register(1), "submitter"))
    assert caught.value.slug == "wrong-attempt"
    check_tx(ledger.state, ledger.sign(make_register(0), "other"))


@pytest.mark.parametrize(
    "changes", [{"recipe": b""}, {"dataset_root": b"x"}, {"records": 0}, {"parent": b"short"}]
)
def test_malformed_registrations_are_refused(changes: dict[str, object]) -> None:
    ledger = start()
    with pytest.raises(InvalidInput):
        check_tx(ledger.state, ledger.sign(make_register(**changes), "submitter"))  # type: ignore[arg-type]


def test_only_submitters_register() -> None:
    ledger = start()
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(make_register(), "node-0"))
    assert caught.value.slug == "not-a-member"


def test_the_verdict_on_a_registered_run_says_so_and_how_often_was_asked() -> None:
    ledger = start()
    first = register(ledger)
    register(ledger, attempt=1)
    submission = decide(ledger, make_record(registration=first))
    verdict = ledger.get_verdict(submission)
    # Both were asked for before the run that suited was submitted.
    assert (verdict.registration, verdict.registrations) == (first, 2)
    assert verdict.assurance == "FULL+REGISTERED"
    assert get(ledger, first).submission == submission


def test_a_run_that_was_not_registered_says_nothing() -> None:
    ledger = start()
    register(ledger)
    verdict = ledger.get_verdict(decide(ledger, make_record()))
    assert (verdict.registration, verdict.registrations, verdict.assurance) == (b"", 0, "FULL")


def test_a_submission_must_be_what_was_registered() -> None:
    ledger = start()
    key = register(ledger)
    fits = make_record(registration=key)
    other = replace(fits.submit, dataset_root=make_hash("other data"))
    refuse(ledger, Record(other, ()), "not-as-registered")
    refuse(ledger, Record(replace(fits.submit, records=99), ()), "not-as-registered")
    refuse(ledger, fits, "unknown-registration", sender="other")
    refuse(ledger, make_record(registration=make_hash("none")), "unknown-registration")
    check_tx(ledger.state, ledger.sign(fits.submit, "submitter"))


def test_a_run_cannot_have_used_a_seed_that_is_not_there() -> None:
    ledger = start()
    payload = make_register()
    ledger.apply([ledger.sign(payload, "submitter")])
    key = compute_registration_id(SENDER, payload, ledger.state.network)
    refuse(ledger, make_record(registration=key), "no-seed")


def test_a_registration_serves_one_run_that_may_be_valid() -> None:
    ledger = start()
    key = register(ledger)
    first, second = (make_record(name, registration=key) for name in ("one", "two"))
    one, two = (ledger.sign(record.submit, "submitter") for record in (first, second))
    with pytest.raises(AssertionError):  # not both in one block either
        ledger.apply([one, two])
    submission = ledger.submit(first)
    refuse(ledger, second, "registration-used")
    ledger.run_until(submission, "decided")  # nobody holds it
    assert ledger.get_verdict(submission).outcome == "UNDECIDED"
    valid = decide(ledger, second)
    assert get(ledger, key).submission == valid
    refuse(ledger, make_record("three", registration=key), "registration-used")


def test_a_run_starts_from_the_model_of_a_valid_parent() -> None:
    ledger = start()
    parent = ledger.submit(make_record("parent", model="m"))
    child = make_record("child", initial="m", parent=parent)
    refuse(ledger, child, "bad-parent")  # no verdict yet
    ledger.hold(parent)
    ledger.run_until(parent, "retracing")
    ledger.attest_open(parent)
    ledger.run_until(parent, "decided")
    refuse(ledger, make_record("child", initial="n", parent=parent), "bad-parent")
    refuse(ledger, make_record("child", initial="m", parent=make_hash("none")), "bad-parent")
    assert ledger.get_verdict(decide(ledger, child)).parent == parent


def test_nothing_starts_from_a_model_that_failed() -> None:
    ledger = start()
    parent = ledger.submit(make_record("parent", model="m"))
    ledger.run_until(parent, "decided")
    assert ledger.get_verdict(parent).outcome == "UNDECIDED"
    refuse(ledger, make_record("child", initial="m", parent=parent), "bad-parent")


def test_a_registration_names_the_parent_too() -> None:
    ledger = start()
    parent = decide(ledger, make_record("parent", model="m"))
    key = register(ledger, parent=parent)
    refuse(ledger, make_record("child", registration=key), "not-as-registered")
    child = make_record("child", initial="m", parent=parent, registration=key)
    check_tx(ledger.state, ledger.sign(child.submit, "submitter"))


@pytest.mark.parametrize(
    "changes",
    [
        {"registration": b"short"},
        {"parent": b"short"},
        {"initial_model_digest": b""},
        {"initial_optimizer_digest": make_hash("another")},
    ],
)
def test_malformed_references_are_refused(changes: dict[str, object]) -> None:
    ledger = start()
    submit = replace(PLAIN, **changes)
    with pytest.raises(InvalidInput):
        check_tx(ledger.state, ledger.sign(submit, "submitter"))
