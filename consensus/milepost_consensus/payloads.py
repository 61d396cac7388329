"""What members say about training and about the network: the payloads of signed transactions.

A run of `steps` steps is cut into intervals of `steps_per_interval` (the last may be shorter).
Snapshot k is the state before the first step of interval k; the record has one snapshot more than
it has intervals.  For every interval the submitter commits a Merkle root over its step digests, one
for each stride of `steps_per_digest` steps, so whoever retrains can point at the first that does
not follow.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.crypto import DIGEST_BYTES, compute_digest
from milepost_consensus.encoding import (
    Uint,
    Wire,
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
    MAX_STEPS_PER_DIGEST,
    MAX_STEPS_PER_INTERVAL,
    MAX_SUBMISSION_BYTES,
)
from milepost_consensus.step_digests import compute_state_digest, count_strides
from milepost_consensus.tolerance import TOLERANCE, validate_tolerance

EXACT: Final = "exact"
ROUNDED: Final = "rounded"
CLASS: Final = "class"
PROFILES: Final = (EXACT, ROUNDED, CLASS)
"""Arithmetic profiles under which retraining repeats all bits, the strongest first."""
KNOWN_PROFILES: Final = (*PROFILES, TOLERANCE)
"""Every profile that this release can retrain; the last compares within a bound, and only where
the recipe asks for it by name."""

LOSS_BYTES: Final = 4


class Submit(Wire, frozen=True):
    """The submitter's statement that a record yields a model.

    `change_scores` are the absolute change of each interval in units of 2^-24 and `rate_sums` the
    sum of its learning rates in units of 10^-9, both exact integers that every holder recomputes.
    The last snapshot is opened into `model_digest` and `optimizer_digest`, so that the model's own
    digest is bound to the chain; the first one likewise, so that it can be another model's last.
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
    steps_per_digest: Uint
    """How many steps a step digest covers: the stride."""
    snapshots: tuple[bytes, ...]
    step_roots: tuple[bytes, ...]
    change_scores: tuple[Uint, ...]
    rate_sums: tuple[Uint, ...]
    initial_model_digest: bytes
    initial_optimizer_digest: bytes
    model_digest: bytes
    optimizer_digest: bytes
    manifest: bytes
    """Digest of the blob that lists the record's files."""
    size_bytes: Uint
    step_us: Uint
    """Declared cost of one step in microseconds; stretches the retracing window, capped."""
    registration: bytes = b""
    """The registration whose seed the run used; empty for a run that was not registered."""
    parent: bytes = b""
    """The submission whose model the run started from; empty if it started from none."""
    tolerance_ppb: Uint = 0
    """For profile `tolerance`: how far, in 10^-9 of its movement, the end of an interval may lie
    from where retraining it from its own snapshot ends; 0 for all others."""


class Register(Wire, frozen=True):
    """The submitter's statement, before a run, of what will be trained on what.

    The seed of the run comes from the beacon afterwards, so it cannot be the submitter's choice.
    """

    recipe: bytes
    """Digest of the recipe without its seed."""
    dataset_root: bytes
    records: Uint
    parent: bytes
    """The submission whose model the run will start from, or empty."""
    attempt: Uint
    """How many registrations the sender made before this one."""


class Hold(Wire, frozen=True):
    """The sender stores every file of the submission and found the record well formed."""

    submission: bytes


class Attest(Wire, frozen=True):
    """The sender retrained the interval.

    Under rule witness `agrees` is always 1 and a difference is a Witness instead; under rule
    majority it is the vote.  `work_digest` is keyed to the verifier and covers the gradient of step
    `work_step`, which only somebody who retrained has seen.
    """

    submission: bytes
    interval: Uint
    agrees: Uint
    work_step: Uint
    work_digest: bytes
    distance_ppb: Uint
    """For profile `tolerance`: how far the retrained end lies from the submitted one, in 10^-9 of
    the movement; 0 for all others."""


class Witness(Wire, frozen=True):
    """The sender says that a stride does not yield what the submitter committed.

    `step` is its first step, `leaf` the committed step digest with its inclusion path under the
    interval's root, `recomputed` the digest the sender got from the same state and batches.
    `pre_state` names the blob with the state before it (32 zero bytes where that is the interval's
    own snapshot).  Under profile `tolerance` the step is the interval's last and stands for the
    whole of it, and `recomputed` is the digest "beyond" of the leaf, the same for everybody.
    """

    submission: bytes
    interval: Uint
    step: Uint
    leaf: bytes
    path: tuple[bytes, ...]
    pre_state: bytes
    recomputed: bytes
    distance_ppb: Uint


class WorkRefutation(Wire, frozen=True):
    """The sender shows that a verifier's work digest is not that of the step it names.

    The parts of the committed step digest of that step's stride, with its inclusion path;
    `gradient` is the content digest g of the gradient, of which the record holds a digest only.
    """

    submission: bytes
    interval: Uint
    verifier: bytes
    gradient: bytes
    pre: bytes
    batch: bytes
    """32 bytes for each step of the stride."""
    loss: bytes
    """Four bytes for each step of the stride: float32, little-endian."""
    post: bytes
    path: tuple[bytes, ...]


class PanelVote(Wire, frozen=True):
    """What a verifier got when it recomputed the one accused stride, which begins at `step`."""

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


class Serve(Wire, frozen=True):
    """The device classes whose arithmetic the sender repeats, and no others from now on.

    In ascending order, each once.  `statement` counts the sender's statements, so that an old one
    cannot be said again.
    """

    statement: Uint
    device_classes: tuple[str, ...]


class OnionRefresh(Wire, frozen=True):
    """A new onion in the place of the sender's used one.

    `generation` counts the sender's onions, so that an old promise cannot be said again.
    """

    generation: Uint
    onion: bytes
    onion_left: Uint


def compute_submission_id(sender: bytes, submit: Submit, network: bytes) -> bytes:
    """The identity of a submission: who says what.  Saying it twice is the same submission."""
    return compute_digest("submission", sender + encode(submit), network)


def compute_registration_id(sender: bytes, register: Register, network: bytes) -> bytes:
    """The identity of a registration.  Its attempt makes the same content another one."""
    return compute_digest("registration", sender + encode(register), network)


def get_interval_count(submit: Submit) -> int:
    """How many intervals the run has."""
    return len(submit.step_roots)


def get_interval_steps(submit: Submit, interval: int) -> range:
    """The step numbers of an interval; step t leads from state t to state t + 1."""
    first = interval * submit.steps_per_interval
    return range(first, min(first + submit.steps_per_interval, submit.steps))


def get_stride_count(submit: Submit, interval: int) -> int:
    """How many step digests the interval has."""
    return count_strides(get_interval_steps(submit, interval), submit.steps_per_digest)


def get_stride_place(submit: Submit, interval: int, step: int) -> int:
    """Which of the interval's step digests covers a step of it."""
    return (step - get_interval_steps(submit, interval).start) // submit.steps_per_digest


def validate_device_class(profile: str, device_class: str) -> None:
    """Raises InvalidTransaction unless a device class belongs to a profile.

    Verifiers choose by the device class alone, so it must never promise another arithmetic than
    the one that retraining would use.
    """
    family = device_class.partition("/")[0]
    if family != profile if profile != CLASS else family in (EXACT, ROUNDED, TOLERANCE):
        raise InvalidTransaction(
            f"device class {device_class!r} does not belong to arithmetic profile {profile!r}",
            slug="bad-profile",
        )


def validate_submit(submit: Submit) -> None:
    """Raises InvalidInput unless a submission is well formed in itself (no state needed)."""
    validate_text("name", submit.name)
    validate_text("device_class", submit.device_class, empty=True)
    if submit.profile not in KNOWN_PROFILES:
        raise InvalidTransaction(
            f"arithmetic profile {submit.profile!r} is not one of {', '.join(KNOWN_PROFILES)}",
            slug="bad-profile",
        )
    validate_device_class(submit.profile, submit.device_class)
    validate_uint("records", submit.records, low=1, high=MAX_RECORDS)
    validate_uint("size_bytes", submit.size_bytes, low=1, high=MAX_SUBMISSION_BYTES)
    validate_uint(
        "steps_per_interval", submit.steps_per_interval, low=1, high=MAX_STEPS_PER_INTERVAL
    )
    most = min(MAX_STEPS_PER_DIGEST, submit.steps_per_interval)
    validate_uint("steps_per_digest", submit.steps_per_digest, low=1, high=most)
    validate_tolerance(
        submit.profile,
        submit.tolerance_ppb,
        steps_per_interval=submit.steps_per_interval,
        steps_per_digest=submit.steps_per_digest,
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
                submit.initial_model_digest,
                submit.initial_optimizer_digest,
                submit.model_digest,
                submit.optimizer_digest,
                submit.manifest,
            ),
        ),
    ):
        for value in digests:
            validate_digest(name, value)
    _validate_reference("registration", submit.registration)
    _validate_reference("parent", submit.parent)
    for name, values in (("change_scores", submit.change_scores), ("rate_sums", submit.rate_sums)):
        for number in values:
            validate_uint(name, number)
    initial = compute_state_digest(0, submit.initial_model_digest, submit.initial_optimizer_digest)
    if initial != submit.snapshots[0]:
        raise InvalidTransaction(
            "initial_model_digest and initial_optimizer_digest do not open the first snapshot",
            slug="bad-record",
        )
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


def validate_register(register: Register) -> None:
    """Raises InvalidInput unless a registration is well formed in itself."""
    validate_digest("recipe", register.recipe)
    validate_digest("dataset_root", register.dataset_root)
    validate_uint("records", register.records, low=1, high=MAX_RECORDS)
    _validate_reference("parent", register.parent)


def validate_work_refutation(refutation: WorkRefutation) -> None:
    """Raises InvalidInput unless a refutation is well formed in itself."""
    validate_uint("path length", len(refutation.path), high=MAX_PATH)
    for value in (refutation.gradient, refutation.pre, refutation.post):
        validate_digest("part of the step", value)
    count = len(refutation.loss) // LOSS_BYTES
    if (
        not 1 <= count <= MAX_STEPS_PER_DIGEST
        or len(refutation.loss) != count * LOSS_BYTES
        or len(refutation.batch) != count * DIGEST_BYTES
    ):
        raise InvalidTransaction(
            f"batches of {len(refutation.batch)} and losses of {len(refutation.loss)} bytes; a step"
            f" has {DIGEST_BYTES} and {LOSS_BYTES}, a stride at most {MAX_STEPS_PER_DIGEST} steps"
        )


def _validate_reference(name: str, value: bytes) -> None:
    """An id, or nothing."""
    if value:
        validate_digest(name, value)
