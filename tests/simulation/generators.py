"""Expands a seed into the options of one schedule, in five ways.

uniform       every fault anywhere at any time
aligned       faults that keep to heights, rounds and types, crashes right after a precommit,
              twins (the Twins and ByzzFuzz papers)
liveness      long times in which nothing can be decided, then calm
verification  submissions, poison and lying verifiers, with and without faults below
directed      the scripts of scripts.py, one after the other
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from milepost_consensus.members import compute_fault_limit
from tests.simulation.options import Fault, Options, Run
from tests.simulation.scripts import SCRIPTS

REAL_SIGNATURES_EVERY: Final = 20
LIES: Final = ("vote", "polc", "malformed", "future", "huge", "spam")
HABITS: Final = (
    "censor",
    "mute",
    "equivocate",
    "false-reveal",
    "false-sync",
    "no-sync",
    "silent-votes",
)


def generate(generator: str, seed: int) -> Options:
    """The schedule of a seed."""
    if generator not in GENERATORS:
        raise ValueError(f"no generator is called {generator}: {', '.join(GENERATORS)}")
    return GENERATORS[generator](Random(f"{generator} {seed}"), seed)


def _generate_uniform(random: Random, seed: int) -> Options:
    count = random.choice((4,) * 10 + (1, 2, 3, 5, 7, 10))
    liars, twins = _draw_liars(random, count, share=0.6)
    calm_ms = random.randrange(300, 1_200)
    nodes = count + len(twins)
    faults = [_draw_fault(random, nodes, calm_ms) for _ in range(random.randrange(6))]
    if liars:
        faults += _draw_lies(random, liars, calm_ms)
    return Options(
        "uniform",
        seed,
        count,
        twins=twins,
        liars=liars,
        habits=_draw_habits(random, liars),
        silent=bool(liars) and random.random() < 0.3,
        calm_ms=calm_ms,
        heights=random.randrange(1, 3),
        max_delay_ms=random.choice((20, 60, 120, 300)),
        drop_permille=random.choice((0, 50, 150)),
        duplicate_permille=random.choice((0, 100)),
        timeout_ms=random.choice((40, 150, 150, 400)),
        min_block_ms=random.choice((0, 50, 50)),
        skews_ms=_draw_skews(random, count, nodes),
        drifts_ppm=tuple(random.randrange(-1_000, 1_001) for _ in range(nodes)),
        real_signatures=seed % REAL_SIGNATURES_EVERY == 0,
        faults=tuple(faults),
    )


def _generate_aligned(random: Random, seed: int) -> Options:
    count = random.choice((4, 4, 4, 4, 4, 7))
    liars, twins = _draw_liars(random, count, share=0.7, always_twins=True)
    nodes = range(count + len(twins))
    calm_ms = random.randrange(300, 1_000)
    faults: list[Fault] = []
    for height in range(1, 3):
        for round_ in range(random.randrange(1, 5)):
            for type_ in range(3):
                if random.random() < 0.35:
                    continue
                # Half of them heal while the round may still be at work.
                end_ms = calm_ms if random.random() < 0.5 else random.randrange(100, calm_ms)
                links = _draw_partition(random, len(nodes))
                if links:
                    faults.append(
                        Fault(
                            "aligned",
                            0,
                            end_ms,
                            links=links,
                            height=height,
                            round=round_,
                            type=type_,
                        )
                    )
            if random.random() < 0.4:
                who = random.randrange(count)
                down_ms = random.randrange(20, 400)
                faults.append(Fault("precommit", 0, down_ms, node=who, height=height, round=round_))
    if liars and random.random() < 0.5:
        faults += _draw_lies(random, liars, calm_ms)
    return Options(
        "aligned",
        seed,
        count,
        twins=twins,
        liars=liars,
        habits=_draw_habits(random, liars),
        silent=bool(liars) and random.random() < 0.5,
        calm_ms=calm_ms,
        max_delay_ms=random.choice((10, 40)),
        real_signatures=seed % REAL_SIGNATURES_EVERY == 0,
        faults=tuple(faults),
    )


def _generate_liveness(random: Random, seed: int) -> Options:
    """Before calm no proposal comes through, or nobody does, or one is left rounds behind."""
    count = random.choice((4, 4, 4, 7))
    liars, twins = _draw_liars(random, count, share=0.4)
    calm_ms = random.choice((1_000,) * 6 + (3_000,) * 3 + (20_000,))
    nodes = count + len(twins)
    faults = [_draw_fault(random, nodes, calm_ms) for _ in range(random.randrange(3))]
    faults.append(Fault("aligned", random.randrange(300), calm_ms, type=0))
    style = random.randrange(4)
    if style == 0:
        left = random.randrange(count)
        others = [i for i in range(nodes) if i != left]
        links = (*((left, i) for i in others), *((i, left) for i in others))
        faults.append(Fault("cut", random.randrange(300), calm_ms, links=links))
    if style == 1:
        at_ms = random.randrange(calm_ms // 2, calm_ms)
        faults.append(Fault("blackout", at_ms, at_ms + random.randrange(50, 1_000)))
    if style == 2 and not liars:
        who = random.randrange(count)
        at_ms = random.randrange(calm_ms)
        faults.append(Fault("wipe", at_ms, at_ms + 300, node=who))
    return Options(
        "liveness",
        seed,
        count,
        twins=twins,
        liars=liars,
        habits=_draw_habits(random, liars),
        silent=bool(liars) and random.random() < 0.7,
        calm_ms=calm_ms,
        heights=random.randrange(1, 4),
        max_delay_ms=random.choice((20, 100)),
        drop_permille=random.choice((0, 300)),
        gossip_ms=140,
        timeout_ms=320,
        timeout_cap_ms=320,
        skews_ms=_draw_skews(random, count, nodes),
        drifts_ppm=tuple(random.randrange(-1_000, 1_001) for _ in range(nodes)),
        real_signatures=seed % REAL_SIGNATURES_EVERY == 0,
        faults=tuple(faults),
    )


def _generate_verification(random: Random, seed: int) -> Options:
    count = random.choice((4, 5, 7))
    liars, twins = _draw_liars(random, count, share=0.4)
    calm_ms = random.choice((0, 0, 400, 1_200))
    nodes = count + len(twins)
    faults = [
        _draw_fault(random, nodes, calm_ms) for _ in range(random.randrange(4) if calm_ms else 0)
    ]
    if liars and calm_ms:
        faults += _draw_lies(random, liars, calm_ms)
    kinds = ["honest"] * count
    # Fewer than half of all verifiers lie, whether or not they agree honestly.
    for who in random.sample(range(count), random.randrange((count - 1) // 2 + 1)):
        kinds[who] = random.choice(("ordered", "ordered", "chaotic", "accuser", "withholds"))
    spare = (count - 1) // 2 - sum(kind != "honest" for kind in kinds)
    for who in liars:
        if kinds[who] == "honest" and spare > 0:
            kinds[who] = random.choice(("ordered", "chaotic", "withholds"))
            spare -= 1
    runs = tuple(
        Run(
            f"run{index}",
            calm_ms + random.randrange(100) if random.random() < 0.6 else random.randrange(50),
            intervals=4,
            poisoned=tuple(k for k in range(4) if random.random() < 0.2),
            flagged=tuple(k for k in range(4) if random.random() < 0.4),
        )
        for index in range(random.choice((1, 1, 2)))
    )
    return Options(
        "verification",
        seed,
        count,
        twins=twins,
        liars=liars,
        habits=_draw_habits(random, liars),
        verifiers=tuple(kinds),
        calm_ms=calm_ms,
        heights=1,
        max_delay_ms=random.choice((10, 50)),
        drop_permille=random.choice((0, 50)),
        real_signatures=seed % REAL_SIGNATURES_EVERY == 0,
        faults=tuple(faults),
        runs=runs,
    )


def _generate_directed(random: Random, seed: int) -> Options:
    names = list(SCRIPTS)
    name = names[seed % len(names)]
    real = seed // len(names) % REAL_SIGNATURES_EVERY == 0
    return Options("directed", seed, SCRIPTS[name].size, script=name, real_signatures=real)


GENERATORS: Final[dict[str, Callable[[Random, int], Options]]] = {
    "uniform": _generate_uniform,
    "aligned": _generate_aligned,
    "liveness": _generate_liveness,
    "verification": _generate_verification,
    "directed": _generate_directed,
}


# Parts -------------------------------------------------------------------------------------------


def _draw_liars(
    random: Random, count: int, *, share: float, always_twins: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """At most f liars, and which of them are twins."""
    if random.random() >= share:
        return (), ()
    limit = compute_fault_limit(count)
    if not limit:
        return (), ()
    liars = tuple(sorted(random.sample(range(count), random.randrange(1, limit + 1))))
    twins = tuple(i for i in liars if always_twins or random.random() < 0.5)
    return liars, twins


def _draw_habits(random: Random, liars: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(h for h in HABITS if random.random() < 0.2) if liars else ()


def _draw_lies(random: Random, liars: tuple[int, ...], calm_ms: int) -> list[Fault]:
    return [
        Fault(
            "lie",
            random.randrange(50),
            calm_ms + random.choice((0, 1_000)),
            node=random.choice(liars),
            value=60 if what == "spam" else 300 if what == "huge" else random.choice((20, 60)),
            what=what,
        )
        for what in LIES
        if random.random() < (0.05 if what == "huge" else 0.35)
    ]


def _draw_skews(random: Random, count: int, nodes: int) -> tuple[int, ...]:
    """Clocks within 30 s of each other, as the genesis asks for; of four, one may be off more."""
    skews = [random.randrange(-14_900, 14_901) for _ in range(nodes)]
    if count == 4 and random.random() < 0.3:
        skews[random.randrange(count)] = random.choice((-30_000, 30_000))
    return tuple(skews)


def _draw_partition(random: Random, nodes: int) -> tuple[tuple[int, int], ...]:
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


def _draw_fault(random: Random, nodes: int, calm_ms: int) -> Fault:
    start = random.randrange(calm_ms)
    end = start + random.randrange(20, max(40, calm_ms))
    who = random.randrange(nodes)
    kind = random.choice(
        ("cut", "cut", "cut", "crash", "crash", "crash", "blackout", "pause", "slow", "disk")
    )
    match kind:
        case "cut":
            flapping = random.choice((0, 0, 30, 150))
            links = _draw_partition(random, nodes) or ((0, 1),)
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
