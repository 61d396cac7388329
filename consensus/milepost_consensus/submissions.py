"""What blocks carry about training: signed transactions and the state of each submission.

A run of `steps` steps is cut into intervals of `steps_per_interval` (the last may be shorter).
Snapshot k is the state before the first step of interval k; the record has one snapshot more than
it has intervals.  For every interval the submitter commits a Merkle root over its step digests, so
whoever retrains can point at the first step that does not follow.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.crypto import Signer, compute_digest, verify_signature
from milepost_consensus.encoding import (
    Uint,
    Wire,
    decode,
    encode,
    validate_digest,
    validate_text,
    validate_uint,
)
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.members import Member
from milepost_consensus.params import (
    MAX_INTERVALS,
    MAX_PATH,
    MAX_RECORDS,
    MAX_STEP_US,
    MAX_STEPS_PER_INTERVAL,
    MAX_SUBMISSION_BYTES,
)

SUBMIT: Final = "submit"
HOLD: Final = "hold"
ATTEST: Final = "attest"
WITNESS: Final = "witness"
PANEL_VOTE: Final = "panel-vote"
EVIDENCE: Final = "evidence"
MEMBER_UPDATE: Final = "member-update"
ONION_REFRESH: Final = "onion-refresh"

EXACT: Final = "exact"
ROUNDED: Final = "rounded"
CLASS: Final = "class"
PROFILES: Final = (EXACT, ROUNDED, CLASS)
"""Arithmetic profiles that this release can retrain, the strongest first."""


class Submit(Wire, frozen=True):
    """The submitter's statement that a record yields a model.

    `change_scores` are the absolute change of each interval in units of 2^-24 and `rate_sums` the
    sum of its learning rates in units of 10^-9, both exact integers that every holder recomputes.
    The last snapshot is opened into `model_digest` and `optimizer_digest`, so that the model's own
    digest is bound to the chain.
    """

    name: str
    recipe: bytes
    """Digest of the recipe's canonical bytes."""
    dataset_root: bytes
    """Merkle root over the digests of the records, in order."""
    records: Uint
    profile: str
    device_class: str
    """What repeats the arithmetic: for profile `class` the kind of machine, for the others the
    profile's name and version ("exact/1"), which every machine can compute."""
    steps: Uint
    steps_per_interval: Uint
    snapshots: tuple[bytes, ...]
    step_roots: tuple[bytes, ...]
    change_scores: tuple[Uint, ...]
    rate_sums: tuple[Uint, ...]
    model_digest: bytes
    optimizer_digest: bytes
    manifest: bytes
    """Digest of the blob that lists the record's files."""
    size_bytes: Uint
    step_us: Uint
    """Declared cost of one step in microseconds; stretches the retracing window, capped."""


class Hold(Wire, frozen=True):
    """The sender stores every file of the submission and found the record well formed."""

    submission: bytes


class Attest(Wire, frozen=True):
    """The sender retrained the interval.

    Under rule witness `agrees` is always 1 and a difference is a Witness instead; under rule
    majority it is the vote.  `work_digest` is keyed to the verifier and covers the bytes of the
    state after step `work_step`, which only somebody who retrained has seen.
    """

    submission: bytes
    interval: Uint
    agrees: Uint
    work_step: Uint
    work_digest: bytes
    distance_ppm: Uint
    """Distance of the retrained end state from the snapshot, in 10^-6 of the movement."""


class Witness(Wire, frozen=True):
    """The sender says that step `step` does not yield what the submitter committed.

    `leaf` is the committed step digest with its inclusion path under the interval's root,
    `recomputed` the digest the sender got from the same state and batch.  `pre_state` names the
    blob with the state before the step (32 zero bytes where it is the interval's own snapshot).
    """

    submission: bytes
    interval: Uint
    step: Uint
    leaf: bytes
    path: tuple[bytes, ...]
    pre_state: bytes
    recomputed: bytes
    distance_ppm: Uint


class PanelVote(Wire, frozen=True):
    """What a verifier got when it recomputed the one accused step."""

    submission: bytes
    interval: Uint
    step: Uint
    recomputed: bytes


class Evidence(Wire, frozen=True):
    """Two messages of one validator, of which an honest one signs at most one.

    `kind` is "vote" or "proposal"; the messages are canonical bytes of votes or of signed claims.
    """

    kind: str
    first: bytes
    second: bytes


class Approval(Wire, frozen=True):
    """A validator's signature over a MemberUpdate without its approvals."""

    sender: bytes
    signature: bytes


class MemberUpdate(Wire, frozen=True):
    """Members that join, change or (with no role) leave, approved by the validators."""

    members: tuple[Member, ...]
    effective_height: Uint
    """The first height that is agreed on under the new membership."""
    approvals: tuple[Approval, ...] = ()


class OnionRefresh(Wire, frozen=True):
    """A new onion in the place of the sender's used one.

    `generation` counts the sender's onions, so that an old promise cannot be said again.
    """

    generation: Uint
    onion: bytes
    onion_left: Uint


Answer = Hold | Attest | Witness | PanelVote
"""What is said about a submission on the chain."""
Governance = Evidence | MemberUpdate | OnionRefresh
Payload = Submit | Answer | Governance
PAYLOADS: Final[dict[str, type[Payload]]] = {
    SUBMIT: Submit,
    HOLD: Hold,
    ATTEST: Attest,
    WITNESS: Witness,
    PANEL_VOTE: PanelVote,
    EVIDENCE: Evidence,
    MEMBER_UPDATE: MemberUpdate,
    ONION_REFRESH: OnionRefresh,
}
_KINDS: Final = {payload: kind for kind, payload in PAYLOADS.items()}


class Tx(Wire, frozen=True):
    """A signed transaction.  `payload` holds the canonical bytes of what `kind` names."""

    kind: str
    sender: bytes
    valid_until: Uint
    """Last height at which a block may carry it."""
    payload: bytes
    signature: bytes = b""


def make_tx(payload: Payload, *, signer: Signer, valid_until: int, network: bytes) -> Tx:
    """Wrap and sign a payload."""
    kind = _KINDS[type(payload)]
    bare = Tx(kind, signer.public, valid_until, encode(payload))
    return Tx(
        kind,
        signer.public,
        valid_until,
        bare.payload,
        signer.sign("tx", encode(bare), network),
    )


def compute_tx_id(tx: Tx, network: bytes) -> bytes:
    """The digest of the transaction without its signature."""
    return compute_digest("tx", encode(Tx(tx.kind, tx.sender, tx.valid_until, tx.payload)), network)


def verify_tx(tx: Tx, network: bytes) -> None:
    """Raises InvalidSignature unless the sender signed the transaction for this network."""
    body = encode(Tx(tx.kind, tx.sender, tx.valid_until, tx.payload))
    verify_signature(tx.sender, tx.signature, kind="tx", body=body, network=network)


def decode_payload(tx: Tx) -> Payload:
    """The payload of a transaction; raises InvalidTransaction for an unknown kind."""
    kind = PAYLOADS.get(tx.kind)
    if kind is None:
        raise InvalidTransaction(f"unknown transaction kind {tx.kind!r}")
    return decode(kind, tx.payload)


def compute_submission_id(sender: bytes, submit: Submit, network: bytes) -> bytes:
    """The identity of a submission: who says what.  Saying it twice is the same submission."""
    return compute_digest("submission", sender + encode(submit), network)


def compute_state_digest(step: int, model_digest: bytes, optimizer_digest: bytes) -> bytes:
    """The digest S_t of a complete training state after `step` steps.

    Randomness is keyed by the step number, so the step stands for the generators as well.
    """
    return compute_digest("state", step.to_bytes(8, "big") + model_digest + optimizer_digest)


def compute_step_digest(
    *, pre: bytes, batch: bytes, gradient: bytes, loss: bytes, post: bytes
) -> bytes:
    """The step digest d_t = H(S_{t-1}, batch_t, gradient_t, loss_t, S_t); loss is 4 bytes (f32)."""
    return compute_digest("step", pre + batch + gradient + loss + post)


def get_interval_count(submit: Submit) -> int:
    """How many intervals the run has."""
    return len(submit.step_roots)


def get_interval_steps(submit: Submit, interval: int) -> range:
    """The step numbers of an interval; step t leads from state t to state t + 1."""
    first = interval * submit.steps_per_interval
    return range(first, min(first + submit.steps_per_interval, submit.steps))


def validate_device_class(profile: str, device_class: str) -> None:
    """Raises InvalidTransaction unless a device class belongs to a profile.

    Verifiers choose by the device class alone, so it must never promise another arithmetic than
    the one that retraining would use.
    """
    family = device_class.partition("/")[0]
    if family != profile if profile != CLASS else family in (EXACT, ROUNDED):
        raise InvalidTransaction(
            f"device class {device_class!r} does not belong to arithmetic profile {profile!r}",
            slug="bad-profile",
        )


def validate_submit(submit: Submit) -> None:
    """Raises InvalidInput unless a submission is well formed in itself (no state needed)."""
    validate_text("name", submit.name)
    validate_text("device_class", submit.device_class, empty=True)
    if submit.profile not in PROFILES:
        raise InvalidTransaction(
            f"arithmetic profile {submit.profile!r} is not one of {', '.join(PROFILES)}",
            slug="bad-profile",
        )
    validate_device_class(submit.profile, submit.device_class)
    validate_uint("records", submit.records, low=1, high=MAX_RECORDS)
    validate_uint("size_bytes", submit.size_bytes, low=1, high=MAX_SUBMISSION_BYTES)
    validate_uint(
        "steps_per_interval", submit.steps_per_interval, low=1, high=MAX_STEPS_PER_INTERVAL
    )
    validate_uint("steps", submit.steps, low=1, high=MAX_INTERVALS * MAX_STEPS_PER_INTERVAL)
    validate_uint("step_us", submit.step_us, high=MAX_STEP_US)
    count = -(-submit.steps // submit.steps_per_interval)
    validate_uint("intervals", count, low=1, high=MAX_INTERVALS)
    lengths = {
        "snapshots": (len(submit.snapshots), count + 1),
        "step_roots": (len(submit.step_roots), count),
        "change_scores": (len(submit.change_scores), count),
        "rate_sums": (len(submit.rate_sums), count),
    }
    for name, (got, expected) in lengths.items():
        if got != expected:
            raise InvalidTransaction(
                f"{name} has {got} entries, {count} intervals need {expected}", slug="bad-record"
            )
    for name, digests in (
        ("snapshots", submit.snapshots),
        ("step_roots", submit.step_roots),
        (
            "digests",
            (
                submit.recipe,
                submit.dataset_root,
                submit.model_digest,
                submit.optimizer_digest,
                submit.manifest,
            ),
        ),
    ):
        for value in digests:
            validate_digest(name, value)
    for name, values in (("change_scores", submit.change_scores), ("rate_sums", submit.rate_sums)):
        for number in values:
            validate_uint(name, number)
    final = compute_state_digest(submit.steps, submit.model_digest, submit.optimizer_digest)
    if final != submit.snapshots[-1]:
        raise InvalidTransaction(
            "model_digest and optimizer_digest do not open the last snapshot", slug="bad-record"
        )


def validate_witness(witness: Witness) -> None:
    """Raises InvalidInput unless a witness is well formed in itself."""
    validate_uint("path length", len(witness.path), high=MAX_PATH)
    for value in (witness.leaf, witness.pre_state, witness.recomputed, *witness.path):
        validate_digest("witness digest", value)
    if witness.recomputed == witness.leaf:
        raise InvalidTransaction("the witness agrees with the committed step")


# The state of a submission on chain --------------------------------------------------------------

ANCHORED: Final = "anchored"
"""Waiting until 2f+1 validators hold the record."""
SEEDING: Final = "seeding"
"""Held; the election follows at the start of the block after the one that gave its seed."""
RETRACING: Final = "retracing"
"""Duties are assigned and answers come in."""
WITNESSING: Final = "witnessing"
"""All duties are answered; the last chance to point at a wrong step."""
PANEL: Final = "panel"
"""All verifiers recompute the accused steps."""
DECIDED: Final = "decided"

OPEN: Final = ""
"""A duty without an answer, an accusation without an outcome."""
AGREES: Final = "agrees"
DIFFERS: Final = "differs"
MISSED: Final = "missed"
UPHELD: Final = "upheld"
REFUTED: Final = "refuted"
UNSETTLED: Final = "unsettled"
"""No digest reached a majority of all verifiers."""


class Duty(Wire, frozen=True):
    """One verifier's assignment to retrain one interval, and what came of it."""

    interval: Uint
    verifier: bytes
    flagged: Uint
    """1 for a sub-quorum of a flagged interval, 0 for an audit."""
    work_step: Uint
    """The step whose state the work digest must cover, drawn by the seed."""
    answer: str = ""
    """"" (open), "agrees", "differs" or "missed"."""
    distance_ppm: Uint = 0
    height: Uint = 0
    """Where the answer stands."""


class PanelAnswer(Wire, frozen=True):
    """What one verifier got for the accused step."""

    verifier: bytes
    recomputed: bytes


class Accusation(Wire, frozen=True):
    """One accused step: the committed digest, who accuses, what the panel got, the outcome."""

    interval: Uint
    step: Uint
    leaf: bytes
    pre_state: bytes
    accusers: tuple[bytes, ...]
    answers: tuple[PanelAnswer, ...]
    outcome: str = ""
    """"" (open), "upheld", "refuted" or "unsettled" (no majority of all verifiers)."""


class Submission(Wire, frozen=True):
    """A submission as the ledger sees it."""

    id: bytes
    sender: bytes
    submit: Submit
    anchored_height: Uint
    phase: str = ANCHORED
    deadline: Uint = 0
    """Last height of the current phase."""
    holders: tuple[bytes, ...] = ()
    held_height: Uint = 0
    """The height at which enough validators held the record; without a beacon its block id seeds
    the election."""
    seed: bytes = b""
    """Of the election, fixed by the beacon whether or not the record is held by then."""
    flagged: tuple[Uint, ...] = ()
    quorum: tuple[bytes, ...] = ()
    standbys: tuple[bytes, ...] = ()
    """Verifiers not in the quorum, in the order in which they take over missed duties."""
    duties: tuple[Duty, ...] = ()
    accusations: tuple[Accusation, ...] = ()
    extensions: Uint = 0
