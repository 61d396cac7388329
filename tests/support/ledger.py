"""A ledger without consensus for tests: blocks are built by whoever's turn it is and validated.

Records are synthetic: step digests are derived from a name, so that a test can point at a step and
open it, without anything being trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from milepost_consensus.blocks import Block
from milepost_consensus.crypto import Ed25519Signer, Signer
from milepost_consensus.encoding import W, decode, encode
from milepost_consensus.members import SUBMITTER, VALIDATOR, VERIFIER, Genesis, Member
from milepost_consensus.merkle import compute_path, compute_root
from milepost_consensus.params import Params
from milepost_consensus.payloads import (
    Attest,
    Hold,
    PanelVote,
    Serve,
    Submit,
    Witness,
    WorkRefutation,
    compute_submission_id,
    get_interval_steps,
    get_stride_place,
)
from milepost_consensus.rules import build_block, get_proposer, owes, validate_block
from milepost_consensus.state import LedgerState, apply_entries, make_initial_state
from milepost_consensus.step_digests import (
    compute_beyond_digest,
    compute_gradient_commitment,
    compute_state_digest,
    compute_step_digest,
    compute_work_digest,
    count_strides,
    get_stride,
)
from milepost_consensus.submissions import Duty, Submission
from milepost_consensus.transactions import Payload, Tx, make_tx
from milepost_consensus.verdicts import Verdict
from tests.support.validators import LINKS, make_onion

TIME_MS = 1_700_000_000_000


def make_signer(name: str) -> Ed25519Signer:
    """A key that depends on a name only."""
    return Ed25519Signer.from_seed(hashlib.sha256(name.encode()).digest())


def make_hash(*parts: object) -> bytes:
    """A digest-sized value for whatever a test does not care about."""
    return hashlib.sha256(repr(parts).encode()).digest()


class Row(NamedTuple):
    """The parts of one step's digest."""

    pre: bytes
    batch: bytes
    gradient: bytes
    """The content digest itself."""
    loss: bytes
    post: bytes

    @property
    def leaf(self) -> bytes:
        return compute_step_digest(
            pre=self.pre,
            batch=self.batch,
            gradient=compute_gradient_commitment(self.gradient),
            loss=self.loss,
            post=self.post,
        )


def make_row(name: str, stride: range) -> Row:
    """The parts of the digest of a stride that nobody trained."""
    pre, gradient, post = (
        make_hash(part, name, stride.start) for part in ("pre", "gradient", "post")
    )
    batches = b"".join(make_hash("batch", name, step) for step in stride)
    return Row(pre, batches, gradient, b"\0\0\x80?" * len(stride), post)


def cut_strides(steps: range, steps_per_digest: int) -> list[range]:
    """The steps of an interval as its digests cover them."""
    count = count_strides(steps, steps_per_digest)
    return [get_stride(steps, steps_per_digest, place) for place in range(count)]


@dataclass(frozen=True)
class Record:
    """A synthetic record: its submission and the step digests under its roots."""

    submit: Submit
    leaves: tuple[tuple[bytes, ...], ...]
    rows: tuple[tuple[Row, ...], ...] = ()
    """What the digests are made of; nothing where it does not matter."""

    def get_gradient(self, duty: Duty) -> bytes:
        """The content digest of the gradient that a duty asks for."""
        if not self.rows:
            return bytes(32)
        place = get_stride_place(self.submit, duty.interval, duty.work_step)
        return self.rows[duty.interval][place].gradient

    def register(self, registration: bytes) -> Record:
        """The same record, said to be that of a registered run."""
        return dataclasses.replace(
            self, submit=msgspec.structs.replace(self.submit, registration=registration)
        )

    def make_refutation(self, submission: bytes, duty: Duty) -> WorkRefutation:
        """The proof that a duty's work digest is wrong, if it is."""
        place = get_stride_place(self.submit, duty.interval, duty.work_step)
        row = self.rows[duty.interval][place]
        return WorkRefutation(
            submission=submission,
            interval=duty.interval,
            verifier=duty.verifier,
            gradient=row.gradient,
            pre=row.pre,
            batch=row.batch,
            loss=row.loss,
            post=row.post,
            path=compute_path(self.leaves[duty.interval], place),
        )

    def make_witness(self, submission: bytes, step: int, *, recomputed: bytes) -> Witness:
        """A well-formed accusation of a step."""
        interval = step // self.submit.steps_per_interval
        index = get_stride_place(self.submit, interval, step)
        leaves = self.leaves[interval]
        return Witness(
            submission=submission,
            interval=interval,
            step=step,
            leaf=leaves[index],
            path=compute_path(leaves, index),
            pre_state=bytes(32),
            recomputed=recomputed,
            distance_ppb=0,
        )

    def make_beyond(self, submission: bytes, interval: int) -> Witness:
        """A well-formed accusation of an interval of a run with a tolerance: off by half."""
        last = get_interval_steps(self.submit, interval)[-1]
        leaf = self.leaves[interval][-1]
        witness = self.make_witness(submission, last, recomputed=compute_beyond_digest(leaf))
        return msgspec.structs.replace(witness, distance_ppb=500_000_000)


def make_record(
    name: str = "run",
    *,
    intervals: int = 6,
    steps_per_interval: int = 4,
    steps_per_digest: int = 1,
    cut: int = 0,
    change_scores: Sequence[int] | None = None,
    model: str | None = None,
    initial: str | None = None,
    profile: str = "rounded",
    step_us: int = 0,
    registration: bytes = b"",
    parent: bytes = b"",
    tolerance_ppb: int = 0,
) -> Record:
    """A record that passes every check the ledger makes; `cut` shortens the last interval.

    `model` and `initial` name the models that it ends and starts with.
    """
    steps = intervals * steps_per_interval - cut
    model_digest, optimizer_digest = make_hash("model", model or name), make_hash("optimizer", name)
    ranges = [
        range(k * steps_per_interval, min((k + 1) * steps_per_interval, steps))
        for k in range(intervals)
    ]
    rows = tuple(
        tuple(make_row(name, stride) for stride in cut_strides(each, steps_per_digest))
        for each in ranges
    )
    leaves = tuple(tuple(row.leaf for row in each) for each in rows)
    first = make_hash("model", initial or f"initial {name}"), make_hash("optimizer")
    final = compute_state_digest(steps, model_digest, optimizer_digest)
    submit = Submit(
        name=name,
        recipe=make_hash("recipe"),
        dataset_root=make_hash("data"),
        records=100,
        profile=profile,
        device_class=f"{profile}/1" if profile != "class" else "test",
        steps=steps,
        steps_per_interval=steps_per_interval,
        steps_per_digest=steps_per_digest,
        snapshots=(
            compute_state_digest(0, *first),
            *(make_hash("snapshot", name, k) for k in range(1, intervals)),
            final,
        ),
        step_roots=tuple(compute_root(each) for each in leaves),
        change_scores=tuple(change_scores or [1_000_000 // (k + 1) for k in range(intervals)]),
        rate_sums=(1_000_000,) * intervals,
        initial_model_digest=first[0],
        initial_optimizer_digest=first[1],
        model_digest=model_digest,
        optimizer_digest=optimizer_digest,
        manifest=make_hash("manifest", name),
        size_bytes=1_000,
        step_us=step_us,
        registration=registration,
        parent=parent,
        tolerance_ppb=tolerance_ppb,
    )
    return Record(submit, leaves, rows)


def make_genesis(
    count: int = 7,
    *,
    params: Params | None = None,
    operators: Sequence[str] | None = None,
    submitters: Sequence[str] = ("submitter",),
) -> Genesis:
    """`count` members that validate and verify, and submitters that do neither."""
    nodes = tuple(
        Member(
            id=make_signer(f"node-{i}").public,
            name=f"node-{i}",
            roles=VALIDATOR | VERIFIER,
            operator=operators[i] if operators else f"operator-{i}",
            onion=make_onion(make_signer(f"node-{i}")).get_head(0),
            onion_left=LINKS,
        )
        for i in range(count)
    )
    others = tuple(
        Member(id=make_signer(name).public, name=name, roles=SUBMITTER, operator=f"of-{name}")
        for name in submitters
    )
    return Genesis("test", TIME_MS, params or Params(), (*nodes, *others))


def rebuild(state: LedgerState) -> LedgerState:
    """The same state out of the bytes of its entries, in another order."""
    bare = apply_entries(
        make_initial_state(state.genesis),
        membership=_copy(state.membership),
        members={key: _copy(state.members[key]) for key in sorted(state.members, reverse=True)},
        registrations={
            key: _copy(state.registrations[key])
            for key in sorted(state.registrations, reverse=True)
        },
        standings={
            key: _copy(state.standings[key]) for key in sorted(state.standings, reverse=True)
        },
        submissions={
            key: _copy(state.submissions[key]) for key in sorted(state.submissions, reverse=True)
        },
        verdicts={key: _copy(state.verdicts[key]) for key in sorted(state.verdicts, reverse=True)},
    )
    return dataclasses.replace(
        bare,
        height=state.height,
        last_id=state.last_id,
        last_time_ms=state.last_time_ms,
        mix=state.mix,
        order_seed=state.order_seed,
        set_changes=state.set_changes,
    )


def _copy(value: W) -> W:
    return decode(type(value), encode(value))


class Ledger:
    """A chain of one node that plays all proposers; every block is validated on the way."""

    def __init__(self, genesis: Genesis) -> None:
        self.state: LedgerState = make_initial_state(genesis)
        self.blocks: list[Block] = []
        self.records: dict[bytes, Record] = {}
        """Of the submissions made by `submit`."""
        self.signers: dict[bytes, Signer] = {
            make_signer(member.name).public: make_signer(member.name) for member in genesis.members
        }

    @property
    def verifiers(self) -> tuple[bytes, ...]:
        return tuple(member.id for member in self.state.verifiers)

    def sign(self, payload: Payload, sender: bytes | str, *, valid_until: int | None = None) -> Tx:
        """A transaction for the next block."""
        signer = make_signer(sender) if isinstance(sender, str) else self.signers[sender]
        return make_tx(
            payload,
            signer=signer,
            valid_until=self.state.height + 100 if valid_until is None else valid_until,
            network=self.state.network,
        )

    def apply(self, txs: Iterable[Tx] = (), *, round_: int = 0) -> Block:
        """Append one block of these transactions; all of them must be in it."""
        given = tuple(txs)
        proposer = get_proposer(self.state, self.state.height + 1, round_).id
        block, built = build_block(
            self.state,
            round=round_,
            proposer=proposer,
            txs=given,
            time_ms=self.state.last_time_ms,
            reveal=self.get_reveal(proposer, round_),
        )
        assert block.txs == given
        validated = validate_block(self.state, block, now_ms=block.header.time_ms)
        assert (validated.last_id, validated.root) == (built.last_id, built.root)
        self.state = validated
        self.blocks.append(block)
        return block

    def get_reveal(self, proposer: bytes, round_: int = 0) -> bytes:
        """What the next block has to reveal."""
        if not owes(self.state, proposer, round_):
            return b""
        signer = self.signers[proposer]
        assert isinstance(signer, Ed25519Signer)
        reveal = make_onion(signer).get_reveal(self.state.standings[proposer])
        assert reveal is not None
        return reveal

    def run(self, heights: int) -> None:
        """Append empty blocks."""
        for _ in range(heights):
            self.apply()

    def run_until(self, submission: bytes, *phases: str, limit: int = 2_000) -> Submission:
        """Append empty blocks until the submission is in one of the phases."""
        for _ in range(limit):
            if self.get(submission).phase in phases:
                return self.get(submission)
            self.apply()
        raise AssertionError(f"{self.get(submission).phase} for {limit} heights")

    def get(self, submission: bytes) -> Submission:
        """The submission's entry."""
        return self.state.submissions[submission]

    def get_verdict(self, submission: bytes) -> Verdict:
        """The submission's verdict."""
        return self.state.verdicts[submission]

    def serve(self, *device_classes: str, only: Iterable[bytes] = ()) -> None:
        """Let verifiers, all by default, state what they serve; one block."""
        self.apply(
            self.sign(Serve(self.state.standings[verifier].statements, device_classes), verifier)
            for verifier in (only or self.verifiers)
        )

    def submit(self, record: Record, sender: str = "submitter") -> bytes:
        """Anchor a record; returns the submission's id."""
        self.apply([self.sign(record.submit, sender)])
        key = compute_submission_id(make_signer(sender).public, record.submit, self.state.network)
        self.records[key] = record
        return key

    def hold(self, submission: bytes, count: int | None = None) -> None:
        """Let the first `count` validators hold the record, all by default; one block."""
        holders = [member.id for member in self.state.validators][:count]
        self.apply([self.sign(Hold(submission), holder) for holder in holders])

    def start(self, record: Record, sender: str = "submitter") -> bytes:
        """Submit, hold and elect; returns the id of a submission that is being retraced."""
        submission = self.submit(record, sender)
        self.hold(submission)
        self.run_until(submission, "retracing", "witnessing", "decided")
        return submission

    def attest(self, submission: bytes, duty: Duty, *, agrees: int = 1, lazy: bool = False) -> Tx:
        """The answer to a duty; of a lazy verifier, with an invented work digest."""
        gradient = self.records[submission].get_gradient(duty)
        payload = Attest(
            submission=submission,
            interval=duty.interval,
            agrees=agrees,
            work_step=duty.work_step,
            work_digest=compute_work_digest(duty.verifier, bytes(32) if lazy else gradient),
            distance_ppb=0,
        )
        return self.sign(payload, duty.verifier)

    def attest_open(
        self, submission: bytes, *, silent: Iterable[bytes] = (), intervals: Iterable[int] = ()
    ) -> None:
        """All open duties are answered with agreement, except by the silent; one block.

        With `intervals`, duties of other intervals stay open.
        """
        quiet, wanted = frozenset(silent), frozenset(intervals)
        self.apply(
            self.attest(submission, duty)
            for duty in self.get(submission).duties
            if not duty.answer
            and duty.verifier not in quiet
            and (not wanted or duty.interval in wanted)
        )

    def vote(self, submission: bytes, witness: Witness, recomputed: bytes, sender: bytes) -> Tx:
        """A panel answer to a witness."""
        return self.sign(PanelVote(submission, witness.interval, witness.step, recomputed), sender)
