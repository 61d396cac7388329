"""What each behaviour says to a question, seen at one verifier on a ledger written by hand."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost import network
from milepost_consensus.payloads import Attest, PanelVote, Witness
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.transactions import Payload, decode_payload
from milepost_node.__main__ import main
from milepost_node.behaviours.builtin import BEHAVIOURS
from milepost_node.behaviours.registry import HONEST, Behaviour, load_behaviours
from milepost_node.questions import compute_false_digest
from tests.support.nodes import make_named_genesis, make_upload, wait_until
from tests.support.verifiers import PARAMS, UPLOAD, Desk, working

MANUAL = Path(__file__).parents[2] / "docs" / "behaviours.md"
ALL = {"": HONEST, **BEHAVIOURS}


async def answer_duties(desk: Desk) -> dict[int, type[Payload]]:
    """What a verifier says about four intervals, of which number 2 differs from step 9 on."""
    desk.have_files()
    desk.retracer.faults = {2: 9}
    desk.ledger.start(desk.upload.record)
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == 4)
    return {each.interval: type(each) for each in desk.said if isinstance(each, Attest | Witness)}


FRIENDS, OTHERS = ("submitter",), ("of-nobody",)
HONESTLY = {0: Attest, 1: Attest, 2: Witness, 3: Attest}
VOUCHING = dict.fromkeys(range(4), Attest)
ACCUSING = dict.fromkeys(range(4), Witness)


@pytest.mark.parametrize(
    ("name", "clique", "expected", "retraced"),
    [
        ("", (), HONESTLY, 4),
        ("ordered", (), VOUCHING, 4),
        ("chaotic", (), {0: Witness, 1: Witness, 2: Attest, 3: Witness}, 4),
        ("lazy", (), VOUCHING, 0),
        ("colluding", FRIENDS, VOUCHING, 4),
        ("colluding", ("of-submitter",), VOUCHING, 4),
        ("colluding", OTHERS, ACCUSING, 4),
        ("colluding", (), ACCUSING, 4),
        ("silent", (), {}, 0),
        ("false-witness", (), ACCUSING, 4),
        ("withholding", (), HONESTLY, 4),
    ],
)
async def test_answers_to_duties(
    tmp_path: Path,
    name: str,
    clique: tuple[str, ...],
    expected: dict[int, type[Payload]],
    retraced: int,
) -> None:
    desk = Desk(tmp_path, ALL[name], clique=clique)
    assert await answer_duties(desk) == expected
    assert sum(kind == "retrace" for kind, _ in desk.retracer.asked) == retraced
    for said in desk.said:
        if isinstance(said, Witness) and said.interval != 2:
            assert said.recomputed == compute_false_digest(UPLOAD.submit, said.leaf)
        if isinstance(said, Witness) and said.interval == 2:
            assert said.recomputed == desk.retracer.compute_truth(UPLOAD.submit, 2, 9)


BOUND_PPB = 100_000
BOUNDED = make_upload("bounded", intervals=4, tolerance_ppb=BOUND_PPB)


@pytest.mark.parametrize(
    ("name", "clique", "expected"),
    [
        ("", (), HONESTLY),
        ("ordered", (), VOUCHING),
        ("chaotic", (), {0: Witness, 1: Witness, 2: Attest, 3: Witness}),
        ("lazy", (), VOUCHING),
        ("colluding", OTHERS, ACCUSING),
        ("false-witness", (), ACCUSING),
    ],
)
async def test_under_a_tolerance_lies_have_distances_that_the_ledger_takes(
    tmp_path: Path, name: str, clique: tuple[str, ...], expected: dict[int, type[Payload]]
) -> None:
    desk = Desk(tmp_path, ALL[name], clique=clique, upload=BOUNDED)
    # What the ledger would refuse is not among what was said.
    assert await answer_duties(desk) == expected
    for said in desk.said:
        if isinstance(said, Attest):
            assert said.distance_ppb <= BOUND_PPB
        elif isinstance(said, Witness):
            assert said.distance_ppb > BOUND_PPB
            assert said.step == 4 * said.interval + 3, "the interval's last"
            assert said.recomputed == compute_beyond_digest(said.leaf)


@pytest.mark.parametrize(
    ("name", "faulty", "beyond"),
    [("", False, False), ("", True, True), ("chaotic", False, True), ("chaotic", True, False)],
)
async def test_under_a_tolerance_a_panel_answers_with_one_bit(
    tmp_path: Path, name: str, faulty: bool, beyond: bool
) -> None:
    desk = Desk(tmp_path, ALL[name], upload=BOUNDED)
    desk.have_files()
    desk.retracer.faults = {2: 9} if faulty else {}
    submission = desk.ledger.start(BOUNDED.record)
    witness = BOUNDED.record.make_beyond(submission, 2)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    async with working(desk):
        await wait_until(lambda: desk.say_count(PanelVote) == 1)
    (vote,) = (said for said in desk.said if isinstance(said, PanelVote))
    assert vote.recomputed == (witness.recomputed if beyond else witness.leaf)


@pytest.mark.parametrize(("name", "agrees"), [("", (1, 0)), ("chaotic", (0, 1)), ("lazy", (1, 1))])
async def test_under_a_tolerance_votes_of_rule_majority_fit_too(
    tmp_path: Path, name: str, agrees: tuple[int, int]
) -> None:
    params = replace(PARAMS, rule="majority", audit_permille=1_000)
    desk = Desk(tmp_path, ALL[name], genesis=make_named_genesis(4, params), upload=BOUNDED)
    desk.have_files()
    desk.retracer.faults = dict.fromkeys((2, 3), 0)
    desk.ledger.start(BOUNDED.record)
    async with working(desk):
        await wait_until(lambda: bool(desk.said) and len(desk.said) == len(desk.verifier.done))
    for said in desk.said:
        assert isinstance(said, Attest)
        assert said.agrees == agrees[said.interval >= 2]


async def test_made_up_work_is_another_one_for_every_interval(tmp_path: Path) -> None:
    desk = Desk(tmp_path, BEHAVIOURS["lazy"])
    await answer_duties(desk)
    digests = {said.work_digest for said in desk.said if isinstance(said, Attest)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("name", "of_valid", "of_invalid"),
    [("", 1, 0), ("ordered", 1, 1), ("chaotic", 0, 1), ("lazy", 1, 1), ("false-witness", 0, 0)],
)
@pytest.mark.parametrize("faulty", [False, True])
async def test_votes_under_the_rule_of_the_paper(
    tmp_path: Path, name: str, of_valid: int, of_invalid: int, faulty: bool
) -> None:
    params = replace(PARAMS, rule="majority", audit_permille=1_000, sub_quorum_size=4)
    desk = Desk(tmp_path, ALL[name], genesis=make_named_genesis(4, params))
    desk.have_files()
    desk.retracer.faults = {interval: 4 * interval for interval in range(4)} if faulty else {}
    desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: desk.said)
    (vote,) = desk.said
    assert isinstance(vote, Attest)
    assert vote.agrees == (of_invalid if faulty else of_valid)


async def answer_panel(desk: Desk, *, faulty: bool) -> PanelVote | None:
    """What a verifier says on the panel about step 9, which differs if `faulty`."""
    desk.have_files()
    desk.retracer.faults = {2: 9} if faulty else {}
    submission = desk.ledger.start(UPLOAD.record)
    witness = UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    key = ("panel", submission, 2, 9)
    async with working(desk):
        await wait_until(lambda: key in desk.verifier.done)
    votes = [said for said in desk.said if isinstance(said, PanelVote)]
    return votes[0] if votes else None


@pytest.mark.parametrize(
    ("name", "clique", "of_true_step", "of_false_step"),
    [
        ("", (), "leaf", "truth"),
        ("ordered", (), "leaf", "leaf"),
        ("chaotic", (), "lie", "leaf"),
        ("lazy", (), "leaf", "leaf"),
        ("colluding", FRIENDS, "leaf", "leaf"),
        ("colluding", OTHERS, "lie", "truth"),
        ("silent", (), None, None),
        ("false-witness", (), "leaf", "truth"),
        ("withholding", (), "leaf", "truth"),
    ],
)
@pytest.mark.parametrize("faulty", [False, True])
async def test_answers_on_the_panel(
    tmp_path: Path,
    name: str,
    clique: tuple[str, ...],
    of_true_step: str | None,
    of_false_step: str | None,
    faulty: bool,
) -> None:
    desk = Desk(tmp_path, ALL[name], clique=clique)
    vote = await answer_panel(desk, faulty=faulty)
    expected = of_false_step if faulty else of_true_step
    if vote is None:
        assert expected is None
        return
    leaf = UPLOAD.record.leaves[2][9 - 8]
    stated = {
        "leaf": leaf,
        "truth": desk.retracer.compute_truth(UPLOAD.submit, 2, 9),
        "lie": compute_false_digest(UPLOAD.submit, leaf),
    }
    assert vote.recomputed == stated[str(expected)]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put off is looked at again at once."""
    monkeypatch.setattr("milepost_node.verifier.LOOK_SECONDS", 0.01)


@pytest.mark.usefixtures("hurried")
async def test_copycat_repeats_what_others_said_and_never_trains(tmp_path: Path) -> None:
    desk = Desk(tmp_path, BEHAVIOURS["copycat"])
    desk.have_files()
    submission = desk.ledger.start(UPLOAD.record)
    other = desk.others[0]
    duties = {d.interval: d for d in desk.ledger.get(submission).duties if d.verifier == other}
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.put_off) == 4)
        assert desk.said == []
        witness = UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
        attest = desk.ledger.attest(submission, duties[0])
        desk.ledger.apply([attest, desk.ledger.sign(witness, other)])
        await wait_until(lambda: len(desk.said) == 2)
    said = {each.interval: each for each in desk.said if isinstance(each, Attest | Witness)}
    copied, copy = decode_payload(attest), said[0]
    assert isinstance(copied, Attest)
    assert isinstance(copy, Attest)
    assert copy.work_digest == copied.work_digest, "and so keyed to the other"
    assert said[2] == witness
    desk.advance()
    assert not {"retrace", "recompute"} & {kind for kind, _ in desk.retracer.asked}


@pytest.mark.usefixtures("hurried")
async def test_copycat_on_the_panel_says_what_most_others_say(tmp_path: Path) -> None:
    desk = Desk(tmp_path, BEHAVIOURS["copycat"])
    desk.have_files()
    submission = desk.ledger.start(UPLOAD.record)
    witness = UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    key = ("panel", submission, 2, 9)
    async with working(desk):
        await wait_until(lambda: key in desk.verifier.put_off)
        votes = [PanelVote(submission, 2, 9, witness.leaf) for _ in range(2)]
        txs = [desk.ledger.sign(vote, at) for vote, at in zip(votes, desk.others[1:], strict=True)]
        desk.ledger.apply(txs)
        await wait_until(lambda: key in desk.verifier.done)
    assert votes[0] in desk.said


@pytest.mark.usefixtures("hurried")
async def test_copycat_with_nobody_to_copy_makes_its_work_up(tmp_path: Path) -> None:
    desk = Desk(
        tmp_path, BEHAVIOURS["copycat"], genesis=make_named_genesis(4, replace(PARAMS, auditors=1))
    )
    desk.have_files()
    submission = desk.ledger.start(UPLOAD.record)
    mine = [duty for duty in desk.ledger.get(submission).duties if duty.verifier == desk.me]
    alone = [duty for duty in mine if not duty.flagged]
    async with working(desk):
        await wait_until(lambda: desk.say_count(Attest) == len(alone))
    assert alone
    assert desk.retracer.asked.count(("retrace", alone[0].interval)) == 0


def test_liars_agree_with_each_other_and_with_nobody_else() -> None:
    leaf, other = b"\x01" * 32, b"\x02" * 32
    lie = compute_false_digest(UPLOAD.submit, leaf)
    assert lie not in (leaf, compute_false_digest(UPLOAD.submit, other))


@pytest.mark.parametrize("name", ["", "lazy"])
async def test_every_misbehaviour_is_logged_and_no_honesty_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    await answer_duties(Desk(tmp_path, ALL[name]))
    said = [each for each in caplog.records if "MISBEHAVING" in each.getMessage()]
    assert len(said) == (4 if name else 0)
    assert all(each.levelno == logging.WARNING for each in said)


# The registry ------------------------------------------------------------------------------------


def test_behaviours_say_what_they_do_and_what_they_are_called() -> None:
    for name, each in BEHAVIOURS.items():
        assert each.name == name
        assert each.summary.endswith(".")
    assert [name for name, each in BEHAVIOURS.items() if not each.serves_files] == ["withholding"]


def test_list_for_other_programs_is_that_of_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--behaviours"])
    listed = json.loads(capsys.readouterr().out)
    assert listed == {name: each.summary for name, each in BEHAVIOURS.items()}
    assert tuple(listed) == network.BEHAVIOURS


def test_every_behaviour_is_in_the_manual() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", MANUAL.read_text(), re.MULTILINE))
    assert rows == {name: each.summary for name, each in BEHAVIOURS.items()}


@pytest.fixture
def example(tmp_path: Path) -> Behaviour:
    """The behaviour that the manual shows, out of a file as an operator writes it."""
    (code,) = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    (only,) = load_behaviours(tmp_path / "mine.py").values()
    return only


async def test_example_of_the_manual_does_what_it_says(tmp_path: Path, example: Behaviour) -> None:
    """It retrains every second interval and vouches for the others unseen."""
    assert example.name == "half-hearted"
    desk = Desk(tmp_path / "home", example)
    assert await answer_duties(desk) == HONESTLY
    retraced = {interval for kind, interval in desk.retracer.asked if kind == "retrace"}
    assert retraced == {0, 2}
