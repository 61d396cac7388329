"""Expands a seed into the options of one schedule, in six ways.

uniform       every fault anywhere at any time
aligned       faults that keep to heights, rounds and types, crashes right after a precommit,
              twins (the Twins and ByzzFuzz papers)
liveness      long times in which nothing can be decided, then calm
verification  submissions, poison, lying verifiers and submitters, onions that run out, with and
              without faults below
membership    validators join, leave and move, with faults below
directed      the scripts of scripts.py, one after the other
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from tests.simulation.draws import (
    HABITS,
    REAL_SIGNATURES_EVERY,
    Cast,
    draw_cast,
    draw_changes,
    draw_clocks,
    draw_fault,
    draw_lies,
    draw_onions,
    draw_partition,
    draw_wipe,
    draw_withdrawals,
    make_options,
)
from tests.simulation.options import Fault, Options, Run
from tests.simulation.scripts import SCRIPTS

DISHONEST: Final = ("ordered", "ordered", "chaotic", "accuser", "withholds", "lazy", "copycat")
"""How verifiers lie; see behaviours.py."""


def generate(generator: str, seed: int) -> Options:
    """The schedule of a seed."""
    if generator not in GENERATORS:
        raise ValueError(f"no generator is called {generator}: {', '.join(GENERATORS)}")
    return GENERATORS[generator](Random(f"{generator} {seed}"), seed)


def _generate_uniform(random: Random, seed: int) -> Options:
    cast = draw_cast(random, (4,) * 10 + (1, 2, 3, 5, 7, 10), share=0.6)
    calm_ms = random.randrange(300, 1_200)
    faults = [draw_fault(random, cast.nodes, calm_ms) for _ in range(random.randrange(6))]
    if cast.spare and random.random() < 0.3:
        faults.append(draw_wipe(random, cast, calm_ms))
    return make_options(
        "uniform",
        random,
        seed,
        cast,
        faults=faults + draw_lies(random, cast, calm_ms),
        silent=0.3,
        calm_ms=calm_ms,
        heights=random.randrange(1, 3),
        max_delay_ms=random.choice((20, 60, 120, 300)),
        drop_permille=random.choice((0, 50, 150)),
        duplicate_permille=random.choice((0, 100)),
        timeout_ms=random.choice((40, 150, 150, 400)),
        min_block_ms=random.choice((0, 50, 50)),
        **draw_clocks(random, cast),
    )


def _generate_aligned(random: Random, seed: int) -> Options:
    cast = draw_cast(random, (4, 4, 4, 4, 4, 7), share=0.7, always_twins=True)
    calm_ms = random.randrange(300, 1_000)
    faults: list[Fault] = []
    for height in range(1, 3):
        for round_ in range(random.randrange(1, 5)):
            faults += _draw_aligned(random, cast, calm_ms, height, round_)
    if random.random() < 0.5:
        faults += draw_lies(random, cast, calm_ms)
    return make_options(
        "aligned",
        random,
        seed,
        cast,
        faults=faults,
        silent=0.5,
        calm_ms=calm_ms,
        max_delay_ms=random.choice((10, 40)),
    )


def _draw_aligned(
    random: Random, cast: Cast, calm_ms: int, height: int, round_: int
) -> list[Fault]:
    """What is lost of one round, and who goes down in it."""
    faults = []
    for type_ in range(3):
        if random.random() < 0.35:
            continue
        # Half of them heal while the round may still be at work.
        end_ms = calm_ms if random.random() < 0.5 else random.randrange(100, calm_ms)
        links = draw_partition(random, cast.nodes)
        if links:
            fault = Fault(
                "aligned", 0, end_ms, links=links, height=height, round=round_, type=type_
            )
            faults.append(fault)
    if random.random() < 0.4:
        who, down_ms = random.randrange(cast.count), random.randrange(20, 400)
        faults.append(Fault("precommit", 0, down_ms, node=who, height=height, round=round_))
    return faults


def _generate_liveness(random: Random, seed: int) -> Options:
    """Before calm no proposal comes through, or nobody does, or one is left rounds behind."""
    cast = draw_cast(random, (4, 4, 4, 7), share=0.4)
    calm_ms = random.choice((1_000,) * 6 + (3_000,) * 3 + (20_000,))
    faults = [draw_fault(random, cast.nodes, calm_ms) for _ in range(random.randrange(3))]
    faults.append(Fault("aligned", random.randrange(300), calm_ms, type=0))
    style = random.randrange(4)
    if style == 0:
        left = random.randrange(cast.count)
        others = [i for i in range(cast.nodes) if i != left]
        links = (*((left, i) for i in others), *((i, left) for i in others))
        faults.append(Fault("cut", random.randrange(300), calm_ms, links=links))
    if style == 1:
        at_ms = random.randrange(calm_ms // 2, calm_ms)
        faults.append(Fault("blackout", at_ms, at_ms + random.randrange(50, 1_000)))
    if style == 2 and cast.spare:
        faults.append(draw_wipe(random, cast, calm_ms))
    return make_options(
        "liveness",
        random,
        seed,
        cast,
        faults=faults,
        silent=0.7,
        calm_ms=calm_ms,
        heights=random.randrange(1, 4),
        max_delay_ms=random.choice((20, 100)),
        drop_permille=random.choice((0, 300)),
        gossip_ms=140,
        timeout_ms=320,
        timeout_cap_ms=320,
        **draw_clocks(random, cast),
    )


def _generate_verification(random: Random, seed: int) -> Options:
    cast = draw_cast(random, (4, 5, 7), share=0.4)
    calm_ms = random.choice((0, 0, 400, 1_200))
    faults: list[Fault] = []
    if calm_ms:
        faults += [draw_fault(random, cast.nodes, calm_ms) for _ in range(random.randrange(4))]
        faults += draw_lies(random, cast, calm_ms)
    onions = draw_onions(random, cast.count) if random.random() < 0.4 else {}
    options = make_options(
        "verification",
        random,
        seed,
        cast,
        faults=faults,
        verifiers=_draw_verifiers(random, cast),
        calm_ms=calm_ms,
        heights=1,
        max_delay_ms=random.choice((10, 50)),
        drop_permille=random.choice((0, 50)),
        runs=tuple(
            _draw_run(random, cast, index, calm_ms) for index in range(random.choice((1, 1, 2)))
        ),
        **onions,
    )
    if random.random() >= 0.3:
        return options
    withdrawals = draw_withdrawals(random, cast, options.verifiers, calm_ms)
    return replace(options, withdrawals=withdrawals)


def _draw_verifiers(random: Random, cast: Cast) -> tuple[str, ...]:
    """Fewer than half of all verifiers lie, whether or not they agree honestly."""
    kinds = ["honest"] * cast.count
    most = (cast.count - 1) // 2
    for who in random.sample(range(cast.count), random.randrange(most + 1)):
        kinds[who] = random.choice(DISHONEST)
    spare = most - sum(kind != "honest" for kind in kinds)
    for who in cast.liars:
        if kinds[who] == "honest" and spare > 0:
            kinds[who] = random.choice(DISHONEST)
            spare -= 1
    return tuple(kinds)


def _draw_run(random: Random, cast: Cast, index: int, calm_ms: int) -> Run:
    """A run, poisoned or not, of a submitter that may keep its record from some."""
    served: tuple[int, ...] = ()
    if random.random() < 0.3:
        count = random.randrange(1, cast.nodes + 1)
        served = tuple(sorted(random.sample(range(cast.nodes), count)))
    return Run(
        f"run{index}",
        calm_ms + random.randrange(100) if random.random() < 0.6 else random.randrange(50),
        intervals=4,
        poisoned=tuple(k for k in range(4) if random.random() < 0.2),
        flagged=tuple(k for k in range(4) if random.random() < 0.4),
        served=served,
        until_held=random.random() < 0.3,
    )


def _generate_membership(random: Random, seed: int) -> Options:
    cast = draw_cast(random, (4, 4, 4, 5, 7), share=0.4)
    calm_ms = random.randrange(300, 1_200)
    candidates, wiped, late = random.randrange(1, 3), set[int](), 0
    nodes = cast.nodes + candidates
    faults = [draw_fault(random, nodes, calm_ms) for _ in range(random.randrange(5))]
    if cast.spare and random.random() < 0.2:
        faults.append(draw_wipe(random, cast, calm_ms))
        wiped.add(faults[-1].node)
    elif cast.spare and random.random() < 0.5:
        late = 1
    faults += draw_lies(random, cast, calm_ms)
    changes = draw_changes(
        *(random, cast, candidates, calm_ms),
        faulty=len(cast.liars) + len(wiped) + late,
        wiped=wiped,
    )
    joining = [change.node for change in changes if change.node >= cast.count]
    validators = cast.count + candidates
    fields: dict[str, Any] = {}
    if random.random() < 0.3:
        fields = {"verifiers": ("honest",) * cast.count, "runs": (_draw_run(random, cast, 0, 0),)}
    if random.random() < 0.3:
        fields |= draw_onions(random, validators)
    return make_options(
        "membership",
        random,
        seed,
        cast,
        faults=faults,
        silent=0.3,
        habits=(*HABITS, "usurp"),
        calm_ms=calm_ms,
        heights=random.randrange(1, 3),
        max_delay_ms=random.choice((10, 50)),
        drop_permille=random.choice((0, 50)),
        candidates=candidates,
        late=tuple(joining[:late]),
        changes=changes,
        **fields,
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
    "membership": _generate_membership,
    "directed": _generate_directed,
}
