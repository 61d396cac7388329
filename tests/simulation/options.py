"""Everything that makes a schedule what it is, as one record that a file can hold.

A generator expands a seed into `Options`; from then on only the record counts.  Faults stand in it
one by one, so that whoever looks for the reason of a failure can leave some of them out and play
the rest again.  All times are simulated milliseconds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

ANY = -1
"""Stands for every height, round or type in a fault."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that goes wrong between `from_ms` and `to_ms`.  What the fields mean depends on it.

    kind       node         value               what happens
    cut                     flapping period     `links` carry nothing; with a period, every other
    aligned                                     `links` lose the messages of height, round, type
    crash      who          effects             goes down at that effect, comes back after the span
    precommit  who                              goes down when it says its precommit of the round
    blackout                                    all are down from `from_ms` to `to_ms`
    wipe       who                              goes down and loses its disk, once all others have
                                                a block; comes back and signs after its quarantine
    pause      who                              does nothing, then everything at once
    slow       who          ms for an event     works on one event after the other
    disk       who          ms for a write      waits for its disk; a crash may lose the write
    lie        a liar       a lie this often    says what `what` names (liars.py)
    """

    kind: str
    from_ms: int
    to_ms: int
    node: int = 0
    value: int = 0
    what: str = ""
    links: tuple[tuple[int, int], ...] = ()
    """From whom to whom, by node; none stands for all."""
    height: int = ANY
    round: int = ANY
    type: int = ANY


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """A training run that is submitted: which steps do not follow, and when it comes."""

    name: str
    at_ms: int
    intervals: int = 4
    poisoned: tuple[int, ...] = ()
    """Intervals with a step that does not follow from the one before it."""
    flagged: tuple[int, ...] = ()
    """Intervals that weight analysis finds suspicious."""
    served: tuple[int, ...] = ()
    """Nodes to whom the submitter gives the record; none stands for all."""
    until_held: bool = False
    """It gives nothing any more once the record counts as held."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of the membership: `node` joins or leaves, or moves to another operator."""

    kind: str
    """"join", "leave" or "move"."""
    at_ms: int
    """When the other operators want it; earlier changes come first."""
    node: int


class Withdrawal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An honest verifier's machine computes otherwise for a while; it says so and is silent."""

    node: int
    from_ms: int
    to_ms: int = 0
    """When it is mended and serves again; 0 stands for never."""


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """One schedule."""

    generator: str
    seed: int
    count: int = 4
    twins: tuple[int, ...] = ()
    """Validators that run twice under one key."""
    liars: tuple[int, ...] = ()
    """Validators that nothing can be expected of; twins are among them."""
    habits: tuple[str, ...] = ()
    """What liars do all the time: "censor", "mute", "equivocate", "false-reveal", "silent-votes"
    (liars.py), "grind" (grinding.py), "usurp" (council.py), "false-sync", "no-sync" (wire.py)."""
    candidates: int = 0
    """Nodes beside the `count` founders; they may join."""
    late: tuple[int, ...] = ()
    """Candidates that start only when they are wanted, and so join through quarantine."""
    changes: tuple[Change, ...] = ()
    onions: tuple[int, ...] = ()
    """Reveals in the onions of each validator; where there are none it has more than it needs."""
    careless: tuple[int, ...] = ()
    """Validators that let their onion run out and promise no other."""
    verifiers: tuple[str, ...] = ()
    """How each validator verifies; see verifiers.py.  Empty: nothing is verified."""
    withdrawals: tuple[Withdrawal, ...] = ()
    """Where there are any, every verifier states what it serves; otherwise nobody does."""
    silent: bool = False
    """The liars are gone for good when the faults stop, so that all others are needed."""
    calm_ms: int = 1_500
    """When the faults stop."""
    heights: int = 2
    """How many heights everybody has to gain from then on."""
    max_delay_ms: int = 100
    calm_delay_ms: int = 10
    drop_permille: int = 0
    duplicate_permille: int = 0
    gossip_ms: int = 200
    poll_ms: int = 900
    timeout_ms: int = 150
    timeout_step_ms: int = 50
    timeout_cap_ms: int = 600
    min_block_ms: int = 50
    skews_ms: tuple[int, ...] = ()
    drifts_ppm: tuple[int, ...] = ()
    real_signatures: bool = False
    faults: tuple[Fault, ...] = ()
    runs: tuple[Run, ...] = ()
    script: str = ""
    """The directed script that moves the messages instead of a network; see scripts.py."""


def dump(options: Options) -> str:
    """The record as text, for people and files."""
    return msgspec.json.format(msgspec.json.encode(options)).decode() + "\n"


def load(path: Path) -> Options:
    """The record in a file."""
    return msgspec.json.decode(path.read_bytes(), type=Options)


def load_plan(text: str) -> Options:
    """The record in JSON on a command line."""
    return msgspec.json.decode(text, type=Options)
