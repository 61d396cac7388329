"""Take a guard out of the machine, and the simulator says so: each generator earns its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from milepost_consensus import duties, journal, machine, panels, rules, verification
from milepost_consensus.duties import Terms
from milepost_consensus.events import Broadcast, TimerKind
from milepost_consensus.inbox import Inbox
from milepost_consensus.machine import Machine, Step
from milepost_consensus.outbox import Outbox
from milepost_consensus.submissions import OPEN, PANEL, RETRACING, Submission
from milepost_consensus.verification import Following
from milepost_consensus.votes import NIL, PREVOTE
from tests.simulation.generators import generate
from tests.simulation.options import Fault, Options, Run
from tests.simulation.play import find_violation

Patch = pytest.MonkeyPatch


def _forget_lock(self: Machine) -> bool:
    lock, self._locked = self._locked, None
    try:
        return _RULE_22(self)
    finally:
        self._locked = lock


def _take_any_polc(self: Machine) -> bool:
    seen = self._tally.proposals.get(self.round)
    if self.step is not Step.PROPOSE or seen is None or not seen.proposal.valid_round:
        return False
    self._vote(PREVOTE, seen.block_id if self._is_valid(seen.block_id) else NIL)
    return True


def _unlock_on_nil(self: Machine) -> bool:
    moved = _RULE_44(self)
    if moved:
        self._locked = None
    return moved


def _never_skip(self: Machine) -> bool:
    return self.step is Step.NEW_HEIGHT and _RULE_55(self)


def _double_timers(self: Machine, kind: TimerKind) -> bool:
    if self.step is Step.NEW_HEIGHT or kind in self._timed:
        return False
    self._timed.add(kind)
    self._set_timer(kind, self.state.params.timeout_ms * 2**self.round)
    return True


def _relay_nothing(self: Inbox, round_: int) -> list[object]:
    return [effect for effect in _RELAY(self, round_) if not isinstance(effect, Broadcast)]


def _persist_nothing(self: Outbox) -> None:
    self._signed_at = None


def _journal_no_lock(*arguments: object, **fields: object) -> journal.Journal:
    return _MAKE_JOURNAL(*arguments, **{**fields, "locked": None, "valid": None})  # type: ignore[arg-type]


_RULE_22 = Machine._rule_22_fresh_proposal
_RULE_44 = Machine._rule_44_nil
_RULE_55 = Machine._rule_55_skip
_RELAY = Inbox.relay
_MAKE_JOURNAL = journal.make_journal


def _ignore_witnesses(submission: Submission, terms: Terms, height: int) -> Following:
    return _LEAVE_PANEL(replace(submission, accusations=()), terms, height)


def _wait_for_ever(submission: Submission, terms: Terms, height: int) -> Following:
    if any(duty.answer == OPEN for duty in submission.duties):
        return submission, None
    return _LEAVE_RETRACING(submission, terms, height)


_LEAVE_PANEL = verification._LEAVE[PANEL]
_LEAVE_RETRACING = verification._LEAVE[RETRACING]

GUARDS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "no lock check": (Machine, "_rule_22_fresh_proposal", _forget_lock),
    "any valid round": (Machine, "_rule_28_backed_proposal", _take_any_polc),
    "unlock on nil": (Machine, "_rule_44_nil", _unlock_on_nil),
    "no round skip": (Machine, "_rule_55_skip", _never_skip),
    "uncapped timers": (Machine, "_set_round_timer", _double_timers),
    "no relay": (Inbox, "relay", _relay_nothing),
    "no persist": (Outbox, "cover", _persist_nothing),
    "amnesia": (machine, "make_journal", _journal_no_lock),
}


def _seek(generator: str, tries: int) -> str | None:
    for seed in range(tries):
        found = find_violation(generate(generator, seed))
        if found:
            return found
    return None


@pytest.mark.parametrize(
    ("bug", "generator", "tries", "law"),
    [
        ("no lock check", "uniform", 120, "S5"),
        ("no lock check", "aligned", 60, "S5"),
        ("unlock on nil", "aligned", 150, "S5"),
        ("no persist", "uniform", 3, "S4"),
        ("no relay", "uniform", 30, "L1"),
    ],
)
def test_chance_finds_it(
    monkeypatch: Patch, bug: str, generator: str, tries: int, law: str
) -> None:
    monkeypatch.setattr(*GUARDS[bug])
    assert law in (_seek(generator, tries) or "missed")


def test_a_submission_without_deadline_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setitem(verification._LEAVE, RETRACING, _wait_for_ever)
    assert " L5: " in (_seek("verification", 20) or "missed")


def test_witnesses_that_are_ignored_are_found_out(monkeypatch: Patch) -> None:
    """Duties of those who found the poison pass on until somebody agrees."""
    monkeypatch.setitem(verification._LEAVE, PANEL, _ignore_witnesses)
    poisoned = Options(
        "poisoned",
        0,
        5,
        verifiers=("honest",) * 3 + ("ordered",) * 2,
        calm_ms=0,
        heights=1,
        runs=(Run("made", 5, poisoned=(1, 2)),),
    )
    found = (find_violation(replace(poisoned, seed=seed)) for seed in range(10))
    assert any(" S10: " in (each or "missed") for each in found)


def test_dismissing_what_honest_verifiers_accuse_is_found_out(monkeypatch: Patch) -> None:
    """A liar that joins an accusation would bring it down."""
    monkeypatch.setattr(panels, "_get_claimants", lambda accusation: {accusation.accusers[-1]})
    assert " S10: " in (_seek("verification", 300) or "missed")


def test_dismissing_before_anybody_is_unmasked_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(panels, "_get_claimants", lambda accusation: set())
    assert "dismissed" in (_seek("verification", 60) or "missed")


def test_a_reveal_that_nobody_checks_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(rules, "_validate_beacon", lambda state, header: None)
    assert " S8: " in (_seek("uniform", 150) or "missed")


def test_a_panel_of_one_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Submission, "panel_majority", property(lambda submission: 1))
    assert " S9: " in (_seek("verification", 30) or "missed")


def test_electing_who_withdrew_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(duties, "is_served", lambda served, verifier, submit: True)
    assert " S14: " in (_seek("verification", 60) or "missed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "generator", "tries", "law"),
    [
        ("amnesia", "aligned", 1_000, "S5"),
        ("uncapped timers", "liveness", 500, "L1"),
    ],
)
def test_patience_finds_it(
    monkeypatch: Patch, bug: str, generator: str, tries: int, law: str
) -> None:
    monkeypatch.setattr(*GUARDS[bug])
    assert law in (_seek(generator, tries) or "missed")


def test_a_node_left_rounds_behind_needs_the_skip(monkeypatch: Patch) -> None:
    """One liar is gone for good, and without the one left behind the others are too few."""
    links = tuple(link for i in range(3) for link in ((i, 3), (3, i)))
    behind = Options(
        "behind",
        1,
        liars=(0,),
        silent=True,
        calm_ms=4_000,
        faults=(Fault("aligned", 0, 4_000, type=0), Fault("cut", 0, 4_000, links=links)),
    )
    assert find_violation(behind) is None
    monkeypatch.setattr(*GUARDS["no round skip"])
    assert "L1" in (find_violation(behind) or "missed")


@pytest.mark.parametrize(
    ("bug", "script"),
    [
        ("no lock check", "hidden-lock"),
        ("no lock check", "lock-moves"),
        ("any valid round", "stale-polc"),
        ("unlock on nil", "nil-does-not-unlock"),
        ("no round skip", "left-behind"),
        ("no relay", "last-words"),
        ("no persist", "crash-before-sending"),
        ("amnesia", "lock-survives"),
    ],
)
def test_a_script_finds_it_at_once(monkeypatch: Patch, bug: str, script: str) -> None:
    monkeypatch.setattr(*GUARDS[bug])
    found = find_violation(Options("directed", 0, script=script))
    assert found is not None


def test_more_than_f_liars_are_found_out() -> None:
    """Two of four run twice, one copy on each side of a cut: two blocks get certificates."""
    left, right = (0, 1, 2), (3, 4, 5)  # 4 and 5 are the second copies of 0 and 1
    links = tuple((a, b) for a in range(6) for b in range(6) if (a in left) != (b in left))
    assert len(links) == 2 * len(left) * len(right)
    split = Options(
        "split",
        1,
        twins=(0, 1),
        liars=(0, 1),
        calm_ms=1_000,
        skews_ms=(0, 0, 0, 500, 600, 700),
        faults=(Fault("cut", 0, 1_000, links=links),),
    )
    found = find_violation(split)
    assert found is not None
    assert "S1" in found or "S2" in found
