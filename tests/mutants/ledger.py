"""Bugs below the agreement: keys and encodings, transactions and blocks, elections and verdicts."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

FORMATS: Final = (
    Mutant(
        "small-order keys accepted",
        "crypto",
        "len(signature) != 64 or is_small_order(public):",
        "len(signature) != 64:",
        ("crypto",),
    ),
    Mutant(
        "digests the same on every network",
        "crypto",
        'kind.encode() + b"\\x00" + network + body',
        'kind.encode() + b"\\x00" + body',
        ("crypto",),
    ),
    Mutant(
        "digests the same for every kind",
        "crypto",
        '_PREFIX + kind.encode() + b"\\x00"',
        '_PREFIX + b"\\x00"',
        ("crypto",),
    ),
    Mutant(
        "re-encode check dropped",
        "encoding",
        "if encode(value) != data:",
        "if False:",
        ("encoding",),
    ),
    Mutant(
        "leaves hashed like nodes",
        "merkle",
        'hashlib.sha256(b"\\x00" + leaf)',
        'hashlib.sha256(b"\\x01" + leaf)',
        ("merkle",),
    ),
    Mutant(
        "path of any length accepted",
        "merkle",
        "if remaining or node != root:",
        "if node != root:",
        ("merkle",),
    ),
)

BLOCKS: Final = (
    Mutant(
        "transaction signature not checked",
        "envelopes",
        "    verify_tx(tx, state.network)\n",
        "",
        ("rules",),
    ),
    Mutant(
        "transaction never expires",
        "envelopes",
        "if not height <= tx.valid_until <= height + MAX_VALID_AHEAD:",
        "if not tx.valid_until <= height + MAX_VALID_AHEAD:",
        ("rules",),
    ),
    Mutant(
        "transaction valid for ever",
        "envelopes",
        "if not height <= tx.valid_until <= height + MAX_VALID_AHEAD:",
        "if not height <= tx.valid_until:",
        ("rules",),
    ),
    Mutant(
        "role of the sender not asked",
        "envelopes",
        "if member is None or not member.roles & role:",
        "if member is None:",
        ("rules",),
    ),
    Mutant(
        "duplicate submission accepted after it failed",
        "draft",
        "if submission_id in self._base.submissions or submission_id in self._submissions:",
        "if submission_id in self._submissions:",
        ("rules",),
    ),
    Mutant(
        "model submitted twice",
        "draft",
        "other = self._base.models.get(model) or self._models.get(model)",
        "other: bytes | None = None",
        ("rules",),
    ),
    Mutant(
        "a hold counts every time",
        "answers",
        "if sender in submission.holders:",
        "if False:",
        ("rules",),
    ),
    Mutant(
        "state root not compared",
        "rules",
        "if header.state_root != after.root:",
        "if False:",
        ("rules",),
    ),
    Mutant(
        "time of a block may go back",
        "rules",
        "if not earliest_ms <= time_ms <= MAX_UINT:",
        "if not time_ms <= MAX_UINT:",
        ("rules",),
    ),
    Mutant(
        "block size not limited",
        "rules",
        "if size_bytes > MAX_BLOCK_BYTES:",
        "if False:",
        ("rules",),
    ),
)

ELECTIONS: Final = (
    Mutant(
        "draws biased",
        "election",
        "next(word for word in self._words if word < bound) % limit",
        "next(self._words) % limit",
        ("election",),
    ),
    Mutant(
        "shuffle leaves nothing in place",
        "election",
        "chosen = self.below(last + 1)",
        "chosen = self.below(last)",
        ("election",),
    ),
    Mutant(
        "submitter's operator elected",
        "duties",
        "if self.members[v].operator != operator]",
        "if operator]",
        ("verification",),
    ),
    Mutant(
        "jailed member elected",
        "duties",
        "if v not in self.jailed]",
        "if v]",
        ("beacon", "governance"),
    ),
    Mutant(
        "replacements by id, not by the shuffle",
        "duties",
        "load[v], place[v]),",
        "load[v], v),",
        ("duties", "verification"),
    ),
    Mutant(
        "who missed a duty is asked first",
        "duties",
        "key=lambda v: (v in submission.quorum, v in missed,",
        "key=lambda v: (v in submission.quorum, v not in missed,",
        ("duties", "verification"),
    ),
    Mutant(
        "f+1 holders are enough",
        "draft",
        "hold_quorum=compute_quorum(len(state.validators)),",
        "hold_quorum=(len(state.validators) - 1) // 3 + 1,",
        ("verification",),
    ),
)

VERDICTS: Final = (
    Mutant(
        "large records given no time",
        "windows",
        "params.hold_window + min(MAX_STRETCH, stretch)",
        "params.hold_window",
        ("windows",),
    ),
    Mutant(
        "slow steps given no time by the attest window",
        "windows",
        "_stretch(max(steps.values(), default=0), submit, terms)",
        "0",
        ("windows",),
    ),
    Mutant(
        "slow steps given no time by the panel window",
        "windows",
        "panel_window + _stretch(steps, submit, terms)",
        "panel_window",
        ("windows",),
    ),
    Mutant(
        "half of the panel is a majority",
        "submissions",
        "return len(self.panel) // 2 + 1",
        "return len(self.panel) // 2",
        ("verification",),
    ),
    Mutant(
        "upheld and refuted swapped",
        "verification",
        "outcome=REFUTED if truth == accusation.leaf else UPHELD",
        "outcome=UPHELD if truth == accusation.leaf else REFUTED",
        ("verification",),
    ),
    Mutant(
        "a step outside the record accused",
        "answers",
        "if witness.step not in steps:",
        "if False:",
        ("rules",),
    ),
    Mutant(
        "a duty answered by somebody else",
        "answers",
        "if duty.interval == attest.interval and duty.verifier == sender",
        "if duty.interval == attest.interval",
        ("rules",),
    ),
    Mutant(
        "a missed duty counts as agreement",
        "duties",
        "replace(duty, answer=MISSED)",
        "replace(duty, answer=AGREES)",
        ("verification", "duties"),
    ),
    Mutant(
        "a sub-quorum may agree by one voice",
        "duties",
        "return size - size // 3",
        "return 1",
        ("duties", "verification"),
    ),
    Mutant(
        "extensions without end",
        "verification",
        "if submission.extensions >= terms.params.max_extensions:",
        "if False:",
        ("verification",),
    ),
    Mutant(
        "verdict proved by a smaller quorum than trusted",
        "light",
        "if signed < needed:",
        "if False:",
        ("light",),
    ),
    Mutant(
        "verdict of another submission shown",
        "light",
        "verdict.submission == submission.id == expected",
        "submission.id == expected",
        ("light",),
    ),
)

LEDGER: Final = (*FORMATS, *BLOCKS, *ELECTIONS, *VERDICTS)
