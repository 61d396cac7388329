"""Rewrite the test vectors: `python -m tests.vectors.write` from the root of the repository."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from milepost_consensus.beacon import compute_link, compute_mix, compute_order
from milepost_consensus.blocks import compute_block_id
from milepost_consensus.crypto import compute_digest
from milepost_consensus.election import Drbg, compute_seed, elect
from milepost_consensus.encoding import encode
from milepost_consensus.flagging import compute_flags, compute_log2
from milepost_consensus.members import compute_network_id
from milepost_consensus.params import Params
from milepost_consensus.payloads import Hold
from milepost_consensus.transactions import compute_tx_id, make_tx
from milepost_consensus.views import to_view
from milepost_ml.augmentation import Crop, Flip
from milepost_ml.keyed import compute_generator_seed, make_order
from milepost_ml.recipe import (
    Parameter,
    compute_rate_sum,
    compute_recipe_digest,
    compute_unseeded_digest,
    encode_recipe,
    get_optimizer_specs,
    get_rates,
    get_steps,
    validate_recipe,
)
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import AdamW, ClipNorm, Group
from tests.reference import training
from tests.reference.cases import make_cases
from tests.reference.layer_cases import make_layer_cases
from tests.reference.vectors import render_cases
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer
from tests.support.philox import draw_initial
from tests.support.recipes import make_recipe
from tests.support.slow_images import move_images

FOLDER = Path(__file__).parent
SEED = bytes(range(32))
CURVES: dict[str, tuple[list[int], list[int]]] = {
    "decaying": ([10**9 // (k + 1) for k in range(12)], [10**6] * 12),
    "spike": ([10**9 // (k + 1) * (5 if k == 7 else 1) for k in range(12)], [10**6] * 12),
    "hardly moving": ([10**9 // (k + 1) // (9 if k == 7 else 1) for k in range(12)], [10**6] * 12),
    "standing still": ([0 if k == 3 else 10**9 for k in range(12)], [10**6] * 12),
    "short": ([10**9, 10**9, 0], [10**6] * 3),
}


def make_digests() -> Any:
    """Digests, signatures and canonical bytes."""
    ledger = Ledger(make_genesis(4))
    network = compute_network_id(ledger.state.genesis)
    block = ledger.apply([ledger.sign(make_record().submit, "submitter")])
    tx = make_tx(Hold(SEED), signer=make_signer("node-0"), valid_until=9, network=network)
    return {
        "digest": {
            "kind": "vote",
            "body": b"body".hex(),
            "network": SEED.hex(),
            "result": compute_digest("vote", b"body", SEED).hex(),
        },
        "genesis": {"bytes": encode(ledger.state.genesis).hex(), "network_id": network.hex()},
        "transaction": {
            "view": to_view(tx),
            "bytes": encode(tx).hex(),
            "id": compute_tx_id(tx, network).hex(),
        },
        "block": {
            "header": to_view(block.header),
            "bytes": encode(block.header).hex(),
            "id": compute_block_id(block.header, network).hex(),
        },
    }


def make_elections() -> Any:
    """The generator and elections of 3 to 12 verifiers."""
    verifiers = [make_hash("verifier", i) for i in range(12)]
    elections = []
    for name, eligible, intervals, flagged, params in (
        ("everybody, one flag", 7, 8, (3,), Params()),
        ("small quorum with standbys", 12, 8, (0, 7), Params(quorum_size=6)),
        ("fewer verifiers than a sub-quorum", 3, 5, (2,), Params()),
        ("two auditors each", 9, 6, (), Params(auditors=2)),
        ("only the ends", 9, 6, (), Params(auditors=0)),
        ("half of the intervals", 9, 12, (2,), Params(audit_permille=500, auditors=2)),
        ("majority", 12, 10, (4,), Params(rule="majority", audit_permille=500, quorum_size=10)),
        ("majority, small quorum", 3, 10, (4, 5), Params(rule="majority", audit_permille=500)),
    ):
        submit = make_record(name, intervals=intervals, cut=1).submit
        result = elect(
            seed=SEED,
            submit=submit,
            eligible=verifiers[:eligible],
            flagged=flagged,
            params=params,
        )
        elections.append(
            {
                "name": name,
                "seed": SEED.hex(),
                "steps": submit.steps,
                "steps_per_interval": submit.steps_per_interval,
                "eligible": [v.hex() for v in verifiers[:eligible]],
                "flagged": list(flagged),
                "params": to_view(params),
                "quorum": [v.hex() for v in result.quorum],
                "standbys": [v.hex() for v in result.standbys],
                "duties": [
                    [duty.interval, duty.verifier.hex(), duty.work_step] for duty in result.duties
                ],
            }
        )
    words, draws = Drbg(SEED, "label"), Drbg(SEED, "label")
    return {
        "seed": {
            "randomness": make_hash("block").hex(),
            "submission": make_hash("submission").hex(),
            "result": compute_seed(make_hash("block"), make_hash("submission")).hex(),
        },
        "beacon": _make_beacon(),
        "words": {
            "seed": SEED.hex(),
            "label": "label",
            "results": [words.below(1 << 64) for _ in range(9)],
        },
        "draws": [
            {"limit": limit, "result": draws.below(limit)}
            for limit in (1, 2, 3, 10, 1_000, 2**63 + 1, 2**63 + 1, 2**64 - 1)
        ],
        "shuffle": Drbg(SEED, "shuffle").shuffle(range(20)),
        "elections": elections,
    }


def _make_beacon() -> Any:
    """An onion of three links, mixes, and an order of turns."""
    owner = make_hash("owner")
    chain = [make_hash("secret")]
    for left in (1, 2, 3):
        chain.append(compute_link(owner, left, chain[-1]))
    return {
        "owner": owner.hex(),
        "chain": [link.hex() for link in chain],
        "mix": SEED.hex(),
        "height": 7,
        "with_reveal": compute_mix(SEED, chain[2], 7).hex(),
        "without": compute_mix(SEED, b"", 7).hex(),
        "order": compute_order(SEED, list(range(7))),
    }


def make_flags() -> Any:
    """Logarithms and flags."""
    return {
        "log2": [
            {"value": value, "result": compute_log2(value)}
            for value in (1, 2, 3, 10, 1_000, 2**32 - 1, 2**63 - 1)
        ],
        "curves": [
            {
                "name": name,
                "change_scores": scores,
                "rate_sums": rates,
                "robust": list(compute_flags(scores, rates, "robust")),
                "upper": list(compute_flags(scores, rates, "upper")),
            }
            for name, (scores, rates) in CURVES.items()
        ],
    }


def make_initial() -> Any:
    """Initial weights of a few tensors, from integers and fractions."""
    cases = [
        ("fc.weight", "uniform", 0.05, [3, 4]),
        ("fc.bias", "uniform", 1e6, [2]),
        ("embed.weight", "normal", 1.0, [2, 5]),
        ("tiny", "normal", 1e-12, [3]),
    ]
    tensors = [
        {
            "name": name,
            "dtype": "F32",
            "kind": kind,
            "scale": scale,
            "shape": shape,
            "values": draw_initial(SEED, name, kind, scale, math.prod(shape)).hex(),
        }
        for name, kind, scale, shape in cases
    ]
    constant = {"kind": "constant", "scale": 1.0}
    tensors += [
        {"name": "norm.weight", "dtype": "F32", **constant, "shape": [2], "values": "0000803f" * 2},
        {"name": "count", "dtype": "I64", **constant, "shape": [], "values": "01" + "00" * 7},
    ]
    return {"seed": SEED.hex(), "tensors": tensors}


def make_loops() -> Any:
    """A recipe with all that a loop may do, what follows from it, and images that were moved."""
    adamw = AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, amsgrad=False)
    decayed = Group(("weight",), adamw, ((3, 0.1), (4, 0.05)))
    plain = Group(("bias",), replace(adamw, weight_decay=0.0), ((7, 0.02),))
    recipe = replace(
        make_recipe(),
        seed=SEED.hex(),
        data=(TensorSpec("data.0", "F32", (10, 4, 4)), TensorSpec("data.1", "F32", (10, 3))),
        parameters=(Parameter("weight", (3, 4), True), Parameter("bias", (3,), True)),
        groups=(decayed, plain),
        clip=ClipNorm(1.0),
        accumulate=2,
        augment=(Flip(horizontal=True, vertical=True), Crop(padding=2)),
        ema_decay=0.99,
    )
    validate_recipe(recipe)
    order = make_order(recipe)
    images = [[[100 * i + 10 * y + x + 1 for x in range(4)] for y in range(4)] for i in range(2)]
    return {
        "recipe": encode_recipe(recipe).decode(),
        "digest": compute_recipe_digest(encode_recipe(recipe)).hex(),
        "unseeded_digest": compute_unseeded_digest(recipe).hex(),
        "rate_sums": [
            compute_rate_sum(get_rates(recipe, get_steps(recipe, interval)))
            for interval in range(recipe.intervals)
        ],
        "optimizer_tensors": sorted(spec.name for spec in get_optimizer_specs(recipe, 1)),
        "steps": [
            {
                "batches": [order.get_indices(number).tolist() for number in order.get_numbers(t)],
                "generator_seeds": [compute_generator_seed(SEED, n) for n in order.get_numbers(t)],
            }
            for t in range(4)
        ],
        "images": images,
        "moved": [move_images(images, recipe.augment, SEED, number) for number in range(4)],
    }


VECTORS = {
    "digests.json": make_digests,
    "election.json": make_elections,
    "flagging.json": make_flags,
    "initial.json": make_initial,
    "loops.json": make_loops,
}

EXACT = {
    "exact/operators.json": lambda: render_cases([*make_cases(), *make_layer_cases()]),
    "exact/training.json": training.render,
}
"""Vectors of exact arithmetic, computed by `tests.reference`: about a quarter of a minute."""


def render(name: str) -> str:
    """The text of one vector file."""
    return json.dumps(VECTORS[name](), indent=1) + "\n"


if __name__ == "__main__":
    for name in (*VECTORS, *EXACT):
        text = EXACT[name]() if name in EXACT else render(name)
        (FOLDER / name).write_text(text)
        print(f"wrote tests/vectors/{name}")
