"""Can a colluding proposer choose the verifiers of a submission?

    python -m milepost_experiments.grinding [--quick] [--out FILE.csv]

50 verifiers, a sub-quorum of five; it is captured if all five collude.  With `seed_source =
block_hash`, the proposer of the block that completes the holders tries its times (30,000
milliseconds are free to it) until the election suits it.  With the beacon, colluding proposers
choose at every turn between their one reveal and giving the turn up, knowing all outcomes that do
not hang on an honest reveal, and take the best.  Elections, digests and the readiness rule are the
network's own functions.  The exact share of an honest draw is hypergeometric.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from milepost_consensus.beacon import compute_mix, compute_order
from milepost_consensus.blocks import VERSION, Header, compute_block_id
from milepost_consensus.election import Drbg, compute_seed
from milepost_consensus.members import compute_fault_limit
from milepost_consensus.standings import Standing, is_mixed
from milepost_experiments.intervals import compute_wilson

MEMBERS: Final = 50
SUB_QUORUM: Final = 5
FREE_TIMES: Final = 30_000
"""Block times that a proposer may choose from: the clock drift that others accept, in ms."""
SHARES: Final = (20, 30, 40, 50)
"""Colluding members in percent; the last two are beyond what the ledger itself tolerates."""


class Row(NamedTuple):
    """One share of colluding members."""

    malicious: float
    honest_draw: float
    hash_predicted: float
    hash_captured: float
    hash_low: float
    hash_high: float
    hash_mean_tries: float
    beacon_captured: float
    beacon_low: float
    beacon_high: float
    submissions_hash: int
    submissions_beacon: int


def compute_capture(members: int, malicious: int, size: int) -> float:
    """The chance that an honest draw of a sub-quorum takes colluding members only."""
    return math.comb(malicious, size) / math.comb(members, size)


def is_captured(seed: bytes, members: Sequence[bytes], malicious: frozenset[bytes]) -> bool:
    """Whether the first sub-quorum of an election consists of colluding members."""
    return malicious.issuperset(Drbg(seed, "quorum").shuffle(members)[:SUB_QUORUM])


class World:
    """Members of a made-up network and who of them colludes, drawn anew for every submission."""

    def __init__(self, chance: random.Random, malicious: int) -> None:
        self.chance = chance
        self.members = sorted(chance.randbytes(32) for _ in range(MEMBERS))
        self.malicious = frozenset(chance.sample(self.members, malicious))
        self.submission = chance.randbytes(32)
        self.p = compute_capture(MEMBERS, malicious, SUB_QUORUM)

    def is_captured(self, randomness: bytes) -> bool:
        """Whether the submission's sub-quorum is captured if the seed comes from there."""
        seed = compute_seed(randomness, self.submission)
        return is_captured(seed, self.members, self.malicious)


def grind_hash(world: World) -> int:
    """How many block times the proposer tries until the sub-quorum is captured; 0 if none helps."""
    rest = {
        name: world.chance.randbytes(32)
        for name in ("prev_id", "proposer", "mix", "tx_root", "state_root")
    }
    validators = world.chance.randbytes(32)
    for time_ms in range(1, FREE_TIMES + 1):
        header = Header(
            version=VERSION,
            height=7,
            round=0,
            time_ms=time_ms,
            reveal=b"",
            validators_hash=validators,
            next_validators_hash=validators,
            **rest,
        )
        if world.is_captured(compute_block_id(header, world.submission)):
            return time_ms
    return 0


class Beacon:
    """One submission under the beacon, colluding proposers at their best."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._secret = world.chance.randbytes(32)
        self._order = compute_order(world.chance.randbytes(32), world.members)
        self._faults = compute_fault_limit(MEMBERS)
        self._mix = world.chance.randbytes(32)

    def play(self) -> bool:
        """Whether the sub-quorum ends up captured."""
        mix, revealed, height = self._mix, frozenset[bytes](), 1
        while True:
            proposer = self._get_proposer(height)
            gives_up = False
            if proposer in self._world.malicious:
                said = self._value_of_saying(mix, revealed, height)
                gives_up = self._value(self._skip(mix, height), revealed, height + 1) > said
            if gives_up:
                mix = self._skip(mix, height)
            else:
                mix = self._say(mix, height)
                revealed |= {proposer}
            if self._is_ready(revealed):
                return self._world.is_captured(mix)
            height += 1

    def _value(self, mix: bytes, revealed: frozenset[bytes], height: int) -> float:
        """The best chance of capture that the colluding members can see from here."""
        if self._get_proposer(height) not in self._world.malicious:
            return self._world.p  # an honest reveal nobody knows makes it an honest draw
        given_up = self._value(self._skip(mix, height), revealed, height + 1)
        return max(self._value_of_saying(mix, revealed, height), given_up)

    def _value_of_saying(self, mix: bytes, revealed: frozenset[bytes], height: int) -> float:
        mix, revealed = self._say(mix, height), revealed | {self._get_proposer(height)}
        if self._is_ready(revealed):
            return float(self._world.is_captured(mix))
        return self._value(mix, revealed, height + 1)

    def _get_proposer(self, height: int) -> bytes:
        return self._order[height % MEMBERS]

    def _say(self, mix: bytes, height: int) -> bytes:
        turn = self._secret + self._get_proposer(height) + height.to_bytes(8, "big")
        return compute_mix(mix, hashlib.sha256(turn).digest(), height)

    def _skip(self, mix: bytes, height: int) -> bytes:
        return compute_mix(mix, b"", height)

    def _is_ready(self, revealed: frozenset[bytes]) -> bool:
        return is_mixed(0, (Standing(each, revealed=1) for each in revealed), self._faults)


def run(*, hashes: int, beacons: int, seed: int = 0) -> list[Row]:
    """One row a share: `hashes` and `beacons` are the submissions of each way."""
    rows: list[Row] = []
    for percent in SHARES:
        malicious = MEMBERS * percent // 100
        chance = random.Random(f"grinding {seed} {percent}")
        p = compute_capture(MEMBERS, malicious, SUB_QUORUM)
        tries = [grind_hash(World(chance, malicious)) for _ in range(hashes)]
        captured = [count for count in tries if count]
        hits = sum(Beacon(World(chance, malicious)).play() for _ in range(beacons))
        rows.append(
            Row(
                percent / 100,
                p,
                1 - (1 - p) ** FREE_TIMES,
                len(captured) / hashes,
                *compute_wilson(len(captured), hashes),
                sum(captured) / max(1, len(captured)),
                hits / beacons,
                *compute_wilson(hits, beacons),
                hashes,
                beacons,
            )
        )
    return rows


def write(rows: Sequence[Row], file: Path) -> None:
    """As CSV, shares as fractions."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Grinding a raw block hash and the beacon.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the submissions")
    parser.add_argument("--out", type=Path, help="write the rows as CSV")
    options = parser.parse_args()
    scale = 1 if options.quick else 10
    rows = run(hashes=10 * scale, beacons=1_000 * scale)
    print(f"{MEMBERS} verifiers, sub-quorum of {SUB_QUORUM}, all of it colluding:")
    for row in rows:
        print(
            f"  {row.malicious:4.0%} collude: honest draw {row.honest_draw:.2e};"
            f" block hash {row.hash_captured:.0%}"
            f" (predicted {row.hash_predicted:.1%}) after {row.hash_mean_tries:,.0f} tries"
            f" (expected {1 / row.honest_draw:,.0f});"
            f" beacon {row.beacon_captured:.2e} ({row.beacon_low:.2e} to {row.beacon_high:.2e})"
        )
    if options.out:
        write(rows, options.out)


if __name__ == "__main__":
    main()
