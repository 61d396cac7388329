"""The constants of one network, fixed in its genesis, and the limits that hold on every network."""

from __future__ import annotations

from milepost_consensus.encoding import Uint, Wire, validate_uint
from milepost_consensus.errors import InvalidInput

MAX_MEMBERS = 1_000
"""Votes and committee tables grow with the square of the membership."""
MAX_INTERVALS = 2_048
"""Duties, roots and flags are kept per interval in every block that touches a submission."""
MAX_STEPS_PER_INTERVAL = 100_000
MAX_TOLERANCE_PPB = 10_000_000
"""A hundredth of an interval's movement: further, a bound would let poison through."""
MAX_TOLERANCE_STEPS = 10
"""Steps in an interval that is compared within a tolerance.  The noise of the arithmetic grows with
them while the share of one poisoned example shrinks: in a network with batch normalisation from a
200th of it after one step to a third after ten (docs/decisions/0010-tolerance.md)."""
MAX_STEPS_PER_DIGEST = 64
"""A panel recomputes as many steps for one accusation."""
MAX_STEP_US = 600_000_000
"""Ten minutes: a submitter cannot stretch a window without bound by declaring slow steps."""
MAX_RECORDS = 2**40
MAX_SUBMISSION_BYTES = 2**40
MAX_LINKS = 2**32
"""Reveals that an onion may promise."""
MAX_AUDITORS = 16
"""Beyond that a larger sub-quorum for every interval is what is meant."""
MAX_DEVICE_CLASSES = 16
"""That one verifier serves: a few profiles and every build and device it can retrain with."""
MAX_BLOCK_TRANSACTIONS = 1_000
MAX_BLOCK_BYTES = 8 * 1024 * 1024
MAX_PATH = 64
"""Longest Merkle path: trees of at most 2^64 leaves."""

RULES = ("witness", "majority")
FLAG_RULES = ("robust", "upper")
BEACON = "beacon"
BLOCK_HASH = "block_hash"
SEED_SOURCES = (BEACON, BLOCK_HASH)


class Params(Wire, frozen=True):
    """What the members of a network agreed on before its first block.

    Windows are counted in heights, timeouts in milliseconds.  `rule` is how an interval is judged:
    `witness` (one honest verifier suffices) or `majority` (the rule of the Diffusion paper).
    """

    rule: str = "witness"
    flag_rule: str = "robust"
    seed_source: str = "beacon"
    """Where elections take their randomness: from the beacon or, as in the Diffusion paper, from
    the hash of a block, which its proposer can choose."""
    quorum_size: Uint = 0
    """Verifiers elected per submission; 0 takes every eligible one."""
    sub_quorum_size: Uint = 5
    """Verifiers that retrain one flagged interval (capped by the quorum)."""
    auditors: Uint = 1
    """Verifiers that retrain one unflagged interval (rule witness); 0 leaves it unretraced."""
    audit_permille: Uint = 1_000
    """Share of all intervals that are checked: the flagged ones, filled up at random."""
    hold_window: Uint = 200
    attest_window: Uint = 200
    witness_window: Uint = 4
    """More than f + 1 turns of proposers in a network of seven, so that one is honest."""
    panel_window: Uint = 100
    max_extensions: Uint = 2
    """How often duties that nobody answered pass on to standbys."""
    min_block_ms: Uint = 100
    """A block with transactions follows its parent no sooner than this."""
    idle_block_ms: Uint = 1_000
    """An empty block, made only while a window is open, follows no sooner than this."""
    epoch_blocks: Uint = 1_000
    """Heights for which the order of proposers stays."""
    max_missed_turns: Uint = 10
    """Turns as proposer missed in a row that jail a member from elections."""
    max_missed_duties: Uint = 3
    """Submissions in a row of which a verifier answered no duty that jail it."""
    max_strikes: Uint = 3
    """Strikes for wrong words about training after which a member can accuse nobody any more."""
    jail_heights: Uint = 1_000
    """How long a member is not elected after an offence."""
    timeout_ms: Uint = 2_000
    """Timeout of each phase of round 0."""
    timeout_step_ms: Uint = 1_000
    """Added per round, up to `timeout_cap_ms`."""
    timeout_cap_ms: Uint = 20_000
    max_clock_drift_ms: Uint = 30_000
    """How far ahead of the local clock a proposed block's time may lie."""


def validate_params(params: Params) -> None:
    """Raises InvalidInput (slug bad-config) for constants that no network can run with."""
    for name, value, allowed in (
        ("rule", params.rule, RULES),
        ("flag_rule", params.flag_rule, FLAG_RULES),
        ("seed_source", params.seed_source, SEED_SOURCES),
    ):
        if value not in allowed:
            raise InvalidInput(
                f"{name} = {value!r} must be one of {', '.join(allowed)}", slug="bad-config"
            )
    validate_uint("quorum_size", params.quorum_size, high=MAX_MEMBERS)
    validate_uint("sub_quorum_size", params.sub_quorum_size, low=1, high=MAX_MEMBERS)
    validate_uint("auditors", params.auditors, high=MAX_AUDITORS)
    validate_uint("audit_permille", params.audit_permille, high=1_000)
    for name in ("hold_window", "attest_window", "panel_window"):
        validate_uint(name, getattr(params, name), low=1, high=1_000_000)
    validate_uint("witness_window", params.witness_window, low=1, high=1_000_000)
    validate_uint("max_extensions", params.max_extensions, high=100)
    for name in (
        "epoch_blocks",
        "max_missed_turns",
        "max_missed_duties",
        "max_strikes",
        "jail_heights",
    ):
        validate_uint(name, getattr(params, name), low=1, high=1_000_000)
    for name in (
        "min_block_ms",
        "idle_block_ms",
        "timeout_ms",
        "timeout_step_ms",
        "timeout_cap_ms",
        "max_clock_drift_ms",
    ):
        validate_uint(name, getattr(params, name), high=3_600_000)
