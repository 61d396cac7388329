"""Bugs in what the ledger says about training: registrations, refuted work, penalties, panels,
audits.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

REGISTRATIONS: Final = tuple(
    Mutant(name, module, old, new, ("registrations",))
    for name, module, old, new in (
        (
            "seed of a registration from the first reveal",
            "draft",
            "if not from_beacon or self._is_mixed(registration.height):",
            "if not from_beacon or mix != self._base.mix:",
        ),
        (
            "registrations not counted",
            "registrations",
            "registrations=standing.registrations + 1",
            "registrations=standing.registrations",
        ),
        (
            "registrations may state any attempt",
            "registrations",
            "if register.attempt != standing.registrations:",
            "if False:",
        ),
        (
            "another member's registration serves",
            "registrations",
            "if registration.sender != sender:",
            "if False:",
        ),
        (
            "a registration serves before its seed",
            "registrations",
            "if not registration.seed:",
            "if False:",
        ),
        (
            "other data than registered",
            "registrations",
            "if said != (register.dataset_root, register.records, register.parent):",
            "if said[1:] != (register.records, register.parent):",
        ),
        (
            "other parent than registered",
            "registrations",
            "if said != (register.dataset_root, register.records, register.parent):",
            "if said[:2] != (register.dataset_root, register.records):",
        ),
        (
            "a registration serves twice",
            "draft",
            "if user and (verdict is None or verdict.outcome == VALID):",
            "if user and verdict is None:",
        ),
        (
            "a registration serves twice at once",
            "draft",
            "if user and (verdict is None or verdict.outcome == VALID):",
            "if user and verdict is not None and verdict.outcome == VALID:",
        ),
        (
            "a failed run uses its registration up",
            "draft",
            "if user and (verdict is None or verdict.outcome == VALID):",
            "if user:",
        ),
        (
            "registrations counted when they were made",
            "draft",
            "registrations = self._get_standing(sender).registrations",
            "registrations = used.register.attempt + 1",
        ),
        (
            "a parent may have failed",
            "registrations",
            "if parent is None or parent.outcome != VALID:",
            "if parent is None:",
        ),
        (
            "a parent's model is another",
            "registrations",
            "if parent.model_digest != submit.initial_model_digest:",
            "if False:",
        ),
        (
            "first snapshot not opened",
            "payloads",
            "if initial != submit.snapshots[0]:",
            "if False:",
        ),
        (
            "blocks for a seed without end",
            "rules",
            "return state.height < registration.height + state.params.hold_window",
            "return True",
        ),
        (
            "no blocks for a seed",
            "rules",
            "return state.height < registration.height + state.params.hold_window",
            "return False",
        ),
        (
            "registered like any other",
            "outcomes",
            "FULL_REGISTERED if submit.registration else FULL",
            "FULL",
        ),
    )
)

WORK: Final = tuple(
    Mutant(name, module, old, new, ("penalties", "duties"))
    for name, module, old, new in (
        (
            "work refuted while duties are open",
            "answers",
            "if submission.phase not in (WITNESSING, PANEL):",
            "if submission.phase == DECIDED:",
        ),
        (
            "work not refuted on the panel",
            "answers",
            "if submission.phase not in (WITNESSING, PANEL):",
            "if submission.phase != WITNESSING:",
        ),
        (
            "right work refuted",
            "answers",
            "if compute_work_digest(duty.verifier, refutation.gradient) == duty.work_digest:",
            "if False:",
        ),
        (
            "refuted by an invented gradient",
            "answers",
            "    _verify_committed(submission, refutation, duty.work_step)\n",
            "",
        ),
        (
            "refuted by another step",
            "answers",
            "index=get_stride_place(submission.submit, refutation.interval, step),",
            "index=0,",
        ),
        (
            "a stranger refutes",
            "answers",
            "if sender != submission.sender and not terms.is_verifier(sender):",
            "if False:",
        ),
        (
            "refuted again and again",
            "answers",
            "if duty.answer == LAZY:",
            "if False:",
        ),
        (
            "lazy once, believed otherwise",
            "answers",
            "if each.verifier == duty.verifier and each.answer == AGREES",
            "if each is duty",
        ),
        (
            "an accusation washes off laziness",
            "answers",
            "and duty.answer not in (MISSED, LAZY)",
            "and duty.answer != MISSED",
        ),
        (
            "the lazy answer again",
            "answers",
            "if duty.answer in (AGREES, DIFFERS, LAZY):",
            "if duty.answer in (AGREES, DIFFERS):",
        ),
        (
            "the lazy are asked again",
            "duties",
            "find_contradicted(submission) | lazy",
            "find_contradicted(submission)",
        ),
        (
            "laziness is free",
            "draft",
            "self._standings[payload.verifier] = strike_liar(",
            "strike_liar(",
        ),
    )
)

PENALTIES: Final = tuple(
    Mutant(name, module, old, new, ("penalties",))
    for name, module, old, new in (
        (
            "the overruled struck whatever the arithmetic",
            "penalties",
            "if submission.submit.profile == EXACT:",
            "if True:",
        ),
        (
            "silence about a device class punished",
            "penalties",
            "if submission.submit.profile != CLASS:",
            "if True:",
        ),
        (
            "silence never punished",
            "penalties",
            "if missed < params.max_missed_duties:",
            "if True:",
        ),
        (
            "an answer does not end the row",
            "penalties",
            "return replace(standing, missed_duties=0) if standing.missed_duties else standing",
            "return standing",
        ),
        (
            "one missed duty is silence",
            "penalties",
            "heard.get(duty.verifier, False) or duty.answer != MISSED",
            "heard.get(duty.verifier, True) and duty.answer != MISSED",
        ),
        (
            "liars accuse for ever",
            "answers",
            "if sender in terms.barred:",
            "if False:",
        ),
        (
            "missed turns silence accusers",
            "draft",
            "s.id for s in state.standings.values() if s.lies >= state.params.max_strikes",
            "s.id for s in state.standings.values() if s.strikes > state.params.max_strikes",
        ),
    )
)

PANELS: Final = tuple(
    Mutant(name, module, old, new, ("panels",))
    for name, module, old, new in (
        (
            "one liar among the accusers brings an accusation down",
            "panels",
            "_get_claimants(each) <= contradicted",
            "_get_claimants(each) & contradicted",
        ),
        (
            "who looked and found a difference is overheard",
            "panels",
            "return others.union(accusation.accusers)",
            "return set(accusation.accusers)",
        ),
        (
            "dismissed for ever",
            "answers",
            "outcome=OPEN if found.outcome == DISMISSED else found.outcome,",
            "outcome=found.outcome,",
        ),
        (
            "a settled accusation opened again",
            "answers",
            "outcome=OPEN if found.outcome == DISMISSED else found.outcome,",
            "outcome=OPEN,",
        ),
        (
            "dismissed whatever the arithmetic",
            "panels",
            "    if submission.submit.profile != EXACT:\n        return submission\n",
            "",
        ),
        (
            "liars are heard on and on",
            "panels",
            "if each.outcome == OPEN and _get_claimants(each) <= contradicted",
            "if False",
        ),
        (
            "a refuted accuser that voted otherwise before is believed",
            "panels",
            "wrong.update(accusation.accusers)",
            "pass",
        ),
        (
            "who vouched for an upheld step is believed",
            "panels",
            "if accusation.outcome == UPHELD:",
            "if False:",
        ),
        (
            "all accusations recomputed at once",
            "panels",
            "if submission.phase == PANEL or submission.submit.profile != EXACT else due[:1]",
            "if True else due[:1]",
        ),
        (
            "one accusation at a time on the last day too",
            "panels",
            "if submission.phase == PANEL or submission.submit.profile != EXACT else due[:1]",
            "if submission.submit.profile != EXACT else due[:1]",
        ),
    )
)

AUDITS: Final = tuple(
    Mutant(name, module, old, new, tests)
    for name, module, old, new, tests in (
        (
            "work step in the first half",
            "election",
            "drawn = skipped + Drbg",
            "drawn = Drbg",
            ("election",),
        ),
        (
            "work step of an extension known",
            "election",
            "verifier + extension.to_bytes",
            "verifier + (0).to_bytes",
            ("election", "duties"),
        ),
        (
            "everything audited",
            "election",
            "[: max(0, target - len(chosen))]",
            "[:]",
            ("election",),
        ),
        (
            "the ends may go unaudited",
            "election",
            "ends = {0, count - 1} - {*flagged}",
            "ends = set[int]()",
            ("election",),
        ),
        (
            "misses rounded down",
            "audits",
            "return -(-comb(intervals - altered, retraced) * MILLION // comb(intervals, retraced))",
            "return comb(intervals - altered, retraced) * MILLION // comb(intervals, retraced)",
            ("audits",),
        ),
        (
            "foreseen intervals counted as audits",
            "verdicts",
            "foreseen |= {0, intervals - 1}",
            "pass",
            ("verdicts",),
        ),
        (
            "a captured panel promises something",
            "audits",
            "if setting.liars > setting.verifiers // 2:",
            "if setting.liars > setting.verifiers:",
            ("audits",),
        ),
        (
            "sub-quorums that repeat counted as different",
            "audits",
            "disjoint = setting.flagged * seats <= setting.quorum",
            "disjoint = True",
            ("audits",),
        ),
    )
)

TRAINING: Final = (*REGISTRATIONS, *WORK, *PENALTIES, *PANELS, *AUDITS)
