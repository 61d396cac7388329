"""Who retrains what: quorum, sub-quorums, auditors and standbys from one seed.

All draws come from a deterministic generator over SHA-256 and are unbiased: words beyond the
largest multiple of the range are rejected.  `docs/spec/election.md` describes every step so that
somebody else can implement it; `tests/vectors/election.json` holds results to compare with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from milepost_consensus.crypto import compute_digest
from milepost_consensus.params import Params
from milepost_consensus.payloads import (
    Submit,
    get_interval_count,
    get_interval_steps,
    get_stride_count,
)
from milepost_consensus.step_digests import get_stride
from milepost_consensus.submissions import Duty

T = TypeVar("T")

_WORD_BYTES: Final = 8
_WORD_RANGE: Final = 1 << 64


class Election(NamedTuple):
    """The result of one election."""

    quorum: tuple[bytes, ...]
    standbys: tuple[bytes, ...]
    duties: tuple[Duty, ...]
    """Ordered by interval, within an interval in the order dealt."""


class Drbg:
    """Numbers that a seed and a label determine and that nobody can tell from chance.

    Block i of the stream is SHA-256(key || i as 8 bytes, big endian), key = H("drbg", label ||
    0x00 || seed); every block gives four 64-bit words, big endian.
    """

    def __init__(self, seed: bytes, label: str) -> None:
        self._words = _generate_words(compute_digest("drbg", label.encode() + b"\x00" + seed))

    def below(self, limit: int) -> int:
        """A uniform integer in [0, limit), 1 <= limit <= 2^64."""
        assert 1 <= limit <= _WORD_RANGE
        bound = _WORD_RANGE - _WORD_RANGE % limit
        # A word is rejected with probability below one half; the stream has no end.
        return next(word for word in self._words if word < bound) % limit

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """A uniform permutation (Fisher and Yates, from the last position down)."""
        shuffled = list(items)
        for last in range(len(shuffled) - 1, 0, -1):
            chosen = self.below(last + 1)
            shuffled[last], shuffled[chosen] = shuffled[chosen], shuffled[last]
        return shuffled


def _generate_words(key: bytes) -> Iterator[int]:
    counter = 0
    while True:
        block = hashlib.sha256(key + counter.to_bytes(8, "big")).digest()
        for start in range(0, len(block), _WORD_BYTES):
            yield int.from_bytes(block[start : start + _WORD_BYTES], "big")
        counter += 1


def compute_seed(randomness: bytes, submission_id: bytes) -> bytes:
    """The seed of a submission's election, from the beacon's mix or the id of a block."""
    return compute_digest("seed", randomness + submission_id)


def compute_work_step(
    seed: bytes, submit: Submit, interval: int, verifier: bytes, *, extension: int = 0
) -> int:
    """The step whose gradient a verifier's work digest covers: the last one of a stride.

    It lies in the second half of the interval, so who stops there has done at least half of it.
    """
    count = get_stride_count(submit, interval)
    place = interval.to_bytes(8, "big") + verifier + extension.to_bytes(8, "big")
    skipped = count // 2
    drawn = skipped + Drbg(seed + place, "work").below(count - skipped)
    return get_stride(get_interval_steps(submit, interval), submit.steps_per_digest, drawn)[-1]


def elect(
    *,
    seed: bytes,
    submit: Submit,
    eligible: Sequence[bytes],
    flagged: Sequence[int],
    params: Params,
) -> Election:
    """Quorum, standbys and duties for a submission; nobody where nobody is eligible."""
    order = Drbg(seed, "quorum").shuffle(sorted(eligible))
    size = min(params.quorum_size or len(order), len(order))
    quorum, standbys = order[:size], order[size:]
    if not quorum:
        deals: list[tuple[int, bytes]] = []
    elif params.rule == "majority":
        deals = _deal_majority(seed, submit, quorum, flagged, params)
    else:
        deals = _deal_witness(seed, submit, quorum, flagged, params)
    marked = frozenset(flagged)
    duties = tuple(
        Duty(
            interval=interval,
            verifier=verifier,
            flagged=int(interval in marked),
            work_step=compute_work_step(seed, submit, interval, verifier),
        )
        for interval, verifier in sorted(deals, key=lambda deal: deal[0])
    )
    return Election(tuple(quorum), tuple(standbys), duties)


def _deal_witness(
    seed: bytes, submit: Submit, quorum: list[bytes], flagged: Sequence[int], params: Params
) -> list[tuple[int, bytes]]:
    """Sub-quorums of flagged intervals by cyclic deal, auditors from shuffles of the first and the
    last interval and of those drawn among the others."""
    count, size = get_interval_count(submit), min(params.sub_quorum_size, len(quorum))
    deals = [
        (interval, quorum[(turn * size + seat) % len(quorum)])
        for turn, interval in enumerate(flagged)
        for seat in range(size)
    ]
    ends = {0, count - 1} - {*flagged}
    fill = _draw_fill(seed, count, {*flagged, *ends}, params)
    drbg, deck = Drbg(seed, "audits"), list[bytes]()
    for interval in sorted({*ends, *fill}):
        need = min(max(params.auditors, interval in ends), len(quorum))
        deals += [(interval, verifier) for verifier in _draw_hand(drbg, deck, quorum, need)]
    return deals


def _draw_hand(drbg: Drbg, deck: list[bytes], quorum: list[bytes], need: int) -> list[bytes]:
    """Take `need` different members off the deck, which is refilled by a shuffle of the quorum.

    Dealing from shuffles rather than drawing anew keeps the load even, and two intervals of one
    deck never go to the same verifier.
    """
    hand: list[bytes] = []
    while len(hand) < need:
        place = next((i for i, member in enumerate(deck) if member not in hand), None)
        if place is None:
            deck += drbg.shuffle(quorum)
        else:
            hand.append(deck.pop(place))
    return hand


def _draw_fill(seed: bytes, count: int, chosen: set[int], params: Params) -> list[int]:
    """Intervals drawn beside those chosen anyway, up to the share that the network checks."""
    target = max(1, -(-count * params.audit_permille // 1_000))
    rest = [interval for interval in range(count) if interval not in chosen]
    return Drbg(seed, "fill").shuffle(rest)[: max(0, target - len(chosen))]


def _deal_majority(
    seed: bytes, submit: Submit, quorum: list[bytes], flagged: Sequence[int], params: Params
) -> list[tuple[int, bytes]]:
    """The Diffusion paper: flagged intervals, filled up at random, dealt round-robin.

    A quorum smaller than the selection goes round again, so that no interval lacks a voter.
    """
    count = get_interval_count(submit)
    selected = sorted([*flagged, *_draw_fill(seed, count, {*flagged}, params)])
    return [
        (selected[turn % len(selected)], quorum[turn % len(quorum)])
        for turn in range(max(len(selected), len(quorum)))
    ]
