"""What the generators draw from a seed: who lies, which faults happen, which changes are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Final

from milepost_consensus.members import compute_fault_limit
from tests.simulation.options import Change, Fault, Options, Withdrawal

REAL_SIGNATURES_EVERY: Final = 20
LIES: Final = ("vote", "polc", "malformed", "future", "huge", "spam")
HABITS: Final = (
    "censor",
    "mute",
    "equivocate",
    "false-reveal",
    "grind",
    "false-sync",
    "no-sync",
    "silent-votes",
)
Links = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Cast:
    """Who is in a schedule."""

    count: int
    liars: tuple[int, ...]
    """At most f."""
    twins: tuple[int, ...]

    @property
    def nodes(self) -> int:
        return self.count + len(self.twins)

    @property
    def spare(self) -> int:
        """How many more may be faulty."""
        return compute_fault_limit(self.count) - len(self.liars)


def draw_cast(
    random: Random, counts: tuple[int, ...], *, share: float, always_twins: bool = False
) -> Cast:
    """A network in which, in this share of the schedules, somebody lies."""
    count = random.choice(counts)
    limit = compute_fault_limit(count)
    if random.random() >= share or not limit:
        return Cast(count, (), ())
    liars = tuple(sorted(random.sample(range(count), random.randrange(1, limit + 1))))
    twins = tuple(i for i in liars if always_twins or random.random() < 0.5)
    return Cast(count, liars, twins)


def make_options(
    generator: str,
    random: Random,
    seed: int,
    cast: Cast,
    *,
    faults: list[Fault],
    silent: float = 0.0,
    habits: tuple[str, ...] = HABITS,
    **fields: Any,
) -> Options:
    """Options of a cast whose liars have some of the habits.

    `silent` is the share of schedules whose liars are gone in the end.
    """
    return Options(
        generator,
        seed,
        cast.count,
        twins=cast.twins,
        liars=cast.liars,
        habits=tuple(h for h in habits if random.random() < 0.2) if cast.liars else (),
        silent=bool(cast.liars) and random.random() < silent,
        real_signatures=seed % REAL_SIGNATURES_EVERY == 0,
        faults=tuple(faults),
        **fields,
    )


def draw_lies(random: Random, cast: Cast, calm_ms: int) -> list[Fault]:
    """What the liars do now and then, beyond the calm as well."""
    return [
        Fault(
            "lie",
            random.randrange(50),
            calm_ms + random.choice((0, 1_000)),
            node=random.choice(cast.liars),
            value=60 if what == "spam" else 300 if what == "huge" else random.choice((20, 60)),
            what=what,
        )
        for what in LIES
        if cast.liars and random.random() < (0.05 if what == "huge" else 0.35)
    ]


def draw_clocks(random: Random, cast: Cast) -> dict[str, Any]:
    """Clocks within 30 s of each other, as the genesis asks for; of four, one may be off more."""
    skews = [random.randrange(-14_900, 14_901) for _ in range(cast.nodes)]
    if cast.count == 4 and random.random() < 0.3:
        skews[random.randrange(cast.count)] = random.choice((-30_000, 30_000))
    drifts = (random.randrange(-1_000, 1_001) for _ in range(cast.nodes))
    return {"skews_ms": tuple(skews), "drifts_ppm": tuple(drifts)}


def draw_partition(random: Random, nodes: int) -> Links:
    """Links that are cut: between two sides, one way, some at random, or around one node."""
    pairs = [(a, b) for a in range(nodes) for b in range(nodes) if a != b]
    style = random.randrange(5)
    sides = [random.randrange(2) for _ in range(nodes)]
    lonely = random.randrange(nodes)
    match style:
        case 0:
            return tuple((a, b) for a, b in pairs if sides[a] != sides[b])
        case 1:
            return tuple((a, b) for a, b in pairs if sides[a] < sides[b])
        case 2:
            return tuple(pair for pair in pairs if random.random() < 0.35)
        case 3:
            return tuple((a, b) for a, b in pairs if b == lonely)
        case _:
            return tuple((a, b) for a, b in pairs if a == lonely)


def draw_fault(random: Random, nodes: int, calm_ms: int) -> Fault:
    """Any fault before the calm."""
    start = random.randrange(calm_ms)
    end = start + random.randrange(20, max(40, calm_ms))
    who = random.randrange(nodes)
    kind = random.choice(
        ("cut", "cut", "cut", "crash", "crash", "crash", "blackout", "pause", "slow", "disk")
    )
    match kind:
        case "cut":
            flapping = random.choice((0, 0, 30, 150))
            links = draw_partition(random, nodes) or ((0, 1),)
            return Fault("cut", start, end, value=flapping, links=links)
        case "crash":
            return Fault("crash", start, end, node=who, value=random.randrange(8))
        case "blackout":
            return Fault("blackout", start, min(end, start + 400))
        case "slow":
            return Fault("slow", start, end, node=who, value=random.choice((1, 10)))
        case "disk":
            return Fault("disk", start, end, node=who, value=random.choice((3, 30, 200)))
        case _:
            return Fault(kind, start, end, node=who)


def draw_wipe(random: Random, cast: Cast, calm_ms: int) -> Fault:
    """An honest founder loses its disk: one of the faulty until it signs again (decision 0005)."""
    at_ms = random.randrange(calm_ms)
    who = random.choice([i for i in range(cast.count) if i not in cast.liars])
    return Fault("wipe", at_ms, at_ms + random.choice((1, 300)), node=who)


def draw_onions(random: Random, validators: int) -> dict[str, Any]:
    """Onions that run out within the schedule, and who promises no other."""
    careless = random.sample(range(validators), random.randrange(validators // 2 + 1))
    return {
        "onions": tuple(random.randrange(1, 6) for _ in range(validators)),
        "careless": tuple(sorted(careless)) if random.random() < 0.5 else (),
    }


def draw_changes(
    random: Random, cast: Cast, candidates: int, calm_ms: int, *, faulty: int, wiped: set[int]
) -> tuple[Change, ...]:
    """One to three changes that leave more than two thirds honest and up; `faulty` are not.

    Who lost its disk stays, so that it can sign again.
    """
    members, outside = set(range(cast.count)), set(range(cast.count, cast.count + candidates))
    changes: list[Change] = []
    for at_ms in sorted(random.randrange(calm_ms + 300) for _ in range(random.randrange(1, 4))):
        leavers = sorted(members - wiped)
        enough = compute_fault_limit(len(members) - 1) >= faulty
        kind = random.choice(("join", "join", "leave", "leave", "move"))
        if kind == "join" and outside:
            who = random.choice(sorted(outside))
            outside.remove(who)
            members.add(who)
        elif kind == "leave" and enough and leavers and len(members) > 1:
            who = random.choice(leavers)
            members.remove(who)
            outside.add(who)
        else:
            kind, who = "move", random.choice(sorted(members))
        changes.append(Change(kind, at_ms, who))
    return tuple(changes)


def draw_withdrawals(
    random: Random, cast: Cast, verifiers: tuple[str, ...], calm_ms: int
) -> tuple[Withdrawal, ...]:
    """Honest verifiers that do not serve all the time; liars stay fewer than half of the others."""
    able = [i for i, kind in enumerate(verifiers) if kind == "honest" and i not in cast.liars]
    liars = cast.count - len(able)
    most = max(0, cast.count - 1 - 2 * liars)
    chosen = random.sample(able, random.randrange(min(most, len(able)) + 1))
    withdrawals = []
    for node in sorted(chosen):
        from_ms = random.randrange(calm_ms + 1_500)
        to_ms = from_ms + random.randrange(1, 2_000) if random.random() < 0.5 else 0
        withdrawals.append(Withdrawal(node, from_ms, to_ms))
    return tuple(withdrawals)
