"""The committed vectors are what the code computes, and the spec's sampler gives them too.

`Sampler` is written from docs/spec/election.md alone and shares no code with the package.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.vectors.write import FOLDER, VECTORS, render


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vectors_are_up_to_date(name: str) -> None:
    stored = (FOLDER / name).read_text()
    assert render(name) == stored, "a changed vector is a changed protocol; see its README"


def test_every_vector_file_is_described() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.json"):
        assert path.name in VECTORS
        assert f"`{path.name}`" in text


class Sampler:
    """docs/spec/election.md sections 1 to 3."""

    def __init__(self, seed: bytes, label: str) -> None:
        prefix = b"milepost/v1/drbg\x00"
        self.key = hashlib.sha256(prefix + label.encode() + b"\x00" + seed).digest()
        self.position = 0

    def word(self) -> int:
        block, lane = divmod(self.position, 4)
        self.position += 1
        stream = hashlib.sha256(self.key + block.to_bytes(8, "big")).digest()
        return int.from_bytes(stream[8 * lane : 8 * lane + 8], "big")

    def below(self, limit: int) -> int:
        while True:
            word = self.word()
            if word < 2**64 // limit * limit:
                return word % limit

    def shuffle(self, items: list[Any]) -> list[Any]:
        for i in reversed(range(1, len(items))):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def test_words_draws_and_shuffle_follow_the_specification() -> None:
    vectors = load("election.json")
    seed = bytes.fromhex(vectors["words"]["seed"])
    words, draws = Sampler(seed, "label"), Sampler(seed, "label")
    assert [words.word() for _ in range(9)] == vectors["words"]["results"]
    for draw in vectors["draws"]:
        assert draws.below(draw["limit"]) == draw["result"]
    assert Sampler(seed, "shuffle").shuffle(list(range(20))) == vectors["shuffle"]


def test_onions_mixes_and_turns_follow_the_rules() -> None:
    """docs/spec/rules.md R2 and R21."""
    vector = load("election.json")["beacon"]
    owner, mix = bytes.fromhex(vector["owner"]), bytes.fromhex(vector["mix"])
    chain = [bytes.fromhex(link) for link in vector["chain"]]
    for left in range(1, len(chain)):
        body = owner + left.to_bytes(8, "big") + chain[left - 1]
        assert hashlib.sha256(b"milepost/v1/onion\x00" + body).digest() == chain[left]
    for name, added in (("with_reveal", chain[2]), ("without", b"skip" + (7).to_bytes(8, "big"))):
        result = hashlib.sha256(b"milepost/v1/mix\x00" + mix + added).hexdigest()
        assert result == vector[name]
    assert Sampler(mix, "proposers").shuffle(list(range(7))) == vector["order"]


def _fill(vector: dict[str, Any], chosen: list[int]) -> list[int]:
    """docs/spec/election.md E7: those chosen and those drawn beside them."""
    seed, count = bytes.fromhex(vector["seed"]), -(-vector["steps"] // vector["steps_per_interval"])
    target = max(1, -(-count * vector["params"]["audit_permille"] // 1000))
    rest = [k for k in range(count) if k not in chosen]
    drawn = Sampler(seed, "fill").shuffle(rest)[: max(0, target - len(chosen))]
    return sorted(chosen + drawn)


def _elect(vector: dict[str, Any]) -> tuple[list[str], list[str], list[tuple[int, str]]]:
    """docs/spec/election.md sections 4 and 5, who gets what."""
    seed, params, flagged = bytes.fromhex(vector["seed"]), vector["params"], vector["flagged"]
    count = -(-vector["steps"] // vector["steps_per_interval"])
    order = Sampler(seed, "quorum").shuffle(sorted(vector["eligible"]))
    q = min(params["quorum_size"] or len(order), len(order))
    quorum, deals = order[:q], list[tuple[int, str]]()
    if params["rule"] == "majority":
        chosen = _fill(vector, flagged)
        deals = [(chosen[t % len(chosen)], quorum[t % q]) for t in range(max(len(chosen), q))]
    else:
        s = min(params["sub_quorum_size"], q)
        deals = [(k, quorum[(j * s + i) % q]) for j, k in enumerate(flagged) for i in range(s)]
        sampler, deck = Sampler(seed, "audits"), list[str]()
        for k in _fill(vector, sorted({*flagged, 0, count - 1})):
            c = params["auditors"]
            if k in (0, count - 1):
                c = max(c, 1)
            hand: list[str] = []
            while k not in flagged and len(hand) < min(c, q):
                free = [v for v in deck if v not in hand]
                if free:
                    deck.remove(free[0])
                    hand.append(free[0])
                else:
                    deck += sampler.shuffle(list(quorum))
            deals += [(k, v) for v in hand]
    return quorum, order[q:], sorted(deals, key=lambda deal: deal[0])


@pytest.mark.parametrize("vector", load("election.json")["elections"], ids=lambda v: v["name"])
def test_elections_follow_the_specification(vector: dict[str, Any]) -> None:
    quorum, standbys, deals = _elect(vector)
    assert (quorum, standbys) == (vector["quorum"], vector["standbys"])
    assert deals == [(interval, verifier) for interval, verifier, _ in vector["duties"]]
    seed, size = bytes.fromhex(vector["seed"]), vector["steps_per_interval"]
    for interval, verifier, work_step in vector["duties"]:
        steps = range(interval * size, min((interval + 1) * size, vector["steps"]))
        own = seed + interval.to_bytes(8, "big") + bytes.fromhex(verifier) + bytes(8)
        half = len(steps) // 2
        assert work_step == steps[half] + Sampler(own, "work").below(len(steps) - half)
