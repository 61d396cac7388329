"""A recipe is read strictly, and everything derived from it follows from its fields."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.crypto import compute_digest
from milepost_ml.augmentation import Crop, Flip
from milepost_ml.errors import InvalidRecord
from milepost_ml.recipe import (
    MAX_RECIPE_BYTES,
    Parameter,
    Recipe,
    compute_rate_sum,
    compute_recipe_digest,
    decode_recipe,
    encode_recipe,
    get_model_specs,
    get_optimizer_specs,
    get_rates,
    get_snapshot_specs,
    get_steps,
)
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import SGD, Adam, AdamW, ClipNorm, ClipValue, Group, Settings
from tests.support.recipes import MOMENTUM, make_groups, make_recipe

ADAM = Adam(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=True)
ADAMW = AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, amsgrad=False)


def change(**fields: Any) -> Recipe:
    return msgspec.structs.replace(make_recipe(), **fields)


def refuse(data: bytes) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        decode_recipe(data)
    return caught.value


def test_recipes_survive_encoding() -> None:
    for optimizer in (MOMENTUM, ADAM, ADAMW):
        recipe = change(groups=make_groups(optimizer))
        assert decode_recipe(encode_recipe(recipe)) == recipe


def test_what_a_loop_does_survives_encoding() -> None:
    recipe = change(
        data=IMAGES,
        clip=ClipNorm(1.0, over="groups"),
        accumulate=4,
        ema_decay=0.99,
        augment=(Flip(vertical=True), Crop(padding=3)),
    )
    assert decode_recipe(encode_recipe(recipe)) == recipe


def test_the_digest_is_over_the_bytes() -> None:
    data = encode_recipe(make_recipe())
    assert compute_recipe_digest(data) == compute_digest("recipe", data)


def test_steps_and_rates_follow_from_the_declared_runs() -> None:
    recipe = make_recipe()
    assert recipe.intervals == 3
    assert [list(get_steps(recipe, k)) for k in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert get_rates(recipe, range(7)) == (0.1,) * 3 + (0.05,) * 4
    assert get_rates(recipe, range(2, 5)) == (0.1, 0.05, 0.05)
    assert get_rates(recipe, range(0)) == ()
    assert compute_rate_sum((0.1, 0.05, 1e-10)) == 150_000_000


def test_several_groups_have_the_mean_rate_of_their_weights() -> None:
    recipe = make_recipe()
    both = (Parameter("weight", (3, 4), True), Parameter("bias", (3,), True))
    groups = (Group(("weight",), ADAM, ((7, 0.1),)), Group(("bias",), ADAM, ((2, 0.0), (5, 0.35))))
    recipe = change(parameters=both, groups=groups)
    assert decode_recipe(encode_recipe(recipe)) == recipe
    # Twelve weights and three: (12 * 0.1 + 3 * 0.35) / 15.
    assert get_rates(recipe, range(1, 4)) == (0.08, 0.15, 0.15)
    # In units of 10^-9 and rounded down: the ledger's sums stay whole.
    uneven = (groups[0], Group(("bias",), ADAM, ((7, 4e-9),)))
    mean = get_rates(change(parameters=both, groups=uneven), range(1))
    assert compute_rate_sum(mean) == (12 * 10**8 + 3 * 4) // 15 == 80_000_000
    names = [spec.name for spec in get_optimizer_specs(recipe, 1)]
    assert names[:2] == ["weight.exp_avg", "weight.exp_avg_sq"]
    assert names[-1] == "bias.step"


def test_expected_tensors_follow_from_recipe_and_step() -> None:
    model = (
        TensorSpec("weight", "F32", (3, 4)),
        TensorSpec("bias", "F32", (3,)),
        TensorSpec("scale", "F32", ()),
    )
    recipe = make_recipe()
    assert get_model_specs(recipe) == model
    # A fresh optimizer has no tensors; the frozen bias never gets any.
    assert get_optimizer_specs(recipe, 0) == ()
    assert get_optimizer_specs(recipe, 3) == (TensorSpec("weight.momentum_buffer", "F32", (3, 4)),)
    assert [spec.name for spec in get_snapshot_specs(recipe, 3)] == [
        "model.weight",
        "model.bias",
        "model.scale",
        "optimizer.weight.momentum_buffer",
    ]


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (SGD(momentum=0.0, dampening=0.0, weight_decay=0.1, nesterov=False), []),
        (ADAM, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"]),
        (ADAMW, ["exp_avg", "exp_avg_sq", "step"]),
    ],
)
def test_slots_follow_from_the_optimizer(optimizer: Settings, slots: list[str]) -> None:
    specs = get_optimizer_specs(change(groups=make_groups(optimizer)), 1)
    assert [spec.name for spec in specs] == [f"weight.{slot}" for slot in slots]
    assert all(spec.shape == (() if spec.name.endswith(".step") else (3, 4)) for spec in specs)


IMAGES = (TensorSpec("data.0", "F32", (10, 4, 4)), TensorSpec("data.1", "F32", (10, 3)))

BAD_FIELDS: list[dict[str, Any]] = [
    {"format": "milepost/recipe/2"},
    {"profile": "exact"},
    {"profile": "rounded"},
    {"profile": "magic"},
    {"device_class": "exact/1"},
    {"device_class": ""},
    {"device_class": "a\nb"},
    {"seed": "0" * 63},
    {"seed": "G" * 64},
    {"data": ()},
    {"data": (TensorSpec("data.1", "F32", (10, 4)), TensorSpec("data.0", "F32", (10, 3)))},
    {"data": (TensorSpec("data.0", "F32", (10, 4)), TensorSpec("data.1", "F32", (9, 3)))},
    {"data": (TensorSpec("data.0", "F32", ()), TensorSpec("data.1", "F32", ()))},
    {"data": (TensorSpec("data.0", "F32", (10, 0)), TensorSpec("data.1", "F32", (10, 3)))},
    {"data": (TensorSpec("data.0", "C64", (10, 4)), TensorSpec("data.1", "F32", (10, 3)))},
    {"data": (TensorSpec("data.0", "F32", (10, 2**40)), TensorSpec("data.1", "F32", (10, 3)))},
    {"batch_size": 0},
    {"batch_size": 11},
    {"steps": 0},
    {"steps": 8},
    {"steps_per_interval": 0},
    {"steps_per_interval": 10**6},
    {"steps": 10**6, "steps_per_interval": 1, "groups": make_groups(rates=((10**6, 0.1),))},
    {"groups": make_groups(rates=())},
    {"groups": make_groups(rates=((0, 0.1), (7, 0.1)))},
    {"groups": make_groups(rates=((-1, 0.1), (8, 0.1)))},
    {"groups": make_groups(rates=((7, -0.1),))},
    {"groups": make_groups(rates=((7, 1e300),))},
    {"parameters": ()},
    {"parameters": (Parameter("weight", (3, 4), False), Parameter("bias", (3,), False))},
    {"parameters": (Parameter("weight", (3, 4), True), Parameter("weight", (3,), False))},
    {"parameters": (Parameter("weight", (3, -4), True), Parameter("bias", (3,), False))},
    {"parameters": (Parameter("weight", (2**20, 2**20), True), Parameter("bias", (3,), False))},
    {"parameters": (Parameter("../weight", (3, 4), True), Parameter("bias", (3,), False))},
    {"buffers": (TensorSpec("weight", "F32", ()),)},
    {"buffers": ()},
    {"buffers": tuple(TensorSpec(f"b{i}" + "x" * 240, "F32", ()) for i in range(9_000))},
    {"groups": make_groups(SGD(momentum=-0.1, dampening=0.0, weight_decay=0.0, nesterov=False))},
    {"groups": make_groups(SGD(momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=True))},
    {"groups": make_groups(SGD(momentum=0.9, dampening=0.0, weight_decay=1e9, nesterov=False))},
    {"groups": make_groups(msgspec.structs.replace(ADAM, beta2=1.0))},
    {"groups": make_groups(msgspec.structs.replace(ADAM, eps=-1.0))},
    {"groups": ()},
    {"groups": make_groups() * 2},
    {"groups": (*make_groups(), Group((), ADAM, ((7, 0.1),)))},
    {"groups": (*make_groups(), Group((), MOMENTUM, ((6, 0.1),)))},
    {"groups": (*make_groups(), Group(("bias",), MOMENTUM, ((7, 0.1),)))},
    {"groups": (*make_groups(), Group(("other",), MOMENTUM, ((7, 0.1),)))},
    {"groups": (Group((), MOMENTUM, ((7, 0.1),)),)},
    {"groups": (*make_groups(), *([Group((), MOMENTUM, ((7, 0.1),))] * 1_024))},
    {"clip": ClipNorm(0.0)},
    {"clip": ClipNorm(-1.0)},
    {"clip": ClipNorm(1e300)},
    {"clip": ClipValue(-0.5)},
    {"autocast": "bfloat16"},
    {"autocast": "bfloat16", "profile": "exact", "device_class": "exact/1"},
    {"autocast": "float16", "device_class": "torch/float16/kat"},
    {"ema_decay": 1.0},
    {"ema_decay": -0.1},
    {"accumulate": 0},
    {"accumulate": -3},
    {"accumulate": 2**20},
    {"augment": (Flip(),)},
    {"augment": (Crop(padding=1),)},
    {"data": IMAGES, "augment": (Crop(padding=4),)},
    {"data": IMAGES, "augment": (Crop(padding=-1),)},
    {"data": IMAGES, "augment": (Flip(horizontal=False),)},
    {"data": IMAGES, "augment": (Flip(),) * 9},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=lambda fields: str(fields)[:60])
def test_impossible_declarations_are_refused(fields: dict[str, Any]) -> None:
    assert refuse(encode_recipe(change(**fields))).slug == "bad-recipe"


NOT_RECIPES = {
    "nothing": b"",
    "too long": b" " * (MAX_RECIPE_BYTES + 1),
    "nested to death": b'{"data":' + b"[" * 100_000,
    "not UTF-8": b'{"device_class":"\xff"}',
    "trailing space": encode_recipe(make_recipe()) + b" ",
    "unknown field": encode_recipe(make_recipe()).replace(b'{"device', b'{"more":1,"device', 1),
    "field twice": encode_recipe(make_recipe()).replace(b'{"dev', b'{"steps":7,"dev', 1),
    "integer for float": encode_recipe(make_recipe()).replace(b"0.0", b"0", 1),
    "infinite rate": encode_recipe(make_recipe()).replace(b"0.05", b"1e999", 1),
    "null rate": encode_recipe(make_recipe()).replace(b"0.05", b"null", 1),
}


@pytest.mark.parametrize("data", NOT_RECIPES.values(), ids=NOT_RECIPES.keys())
def test_other_bytes_are_refused(data: bytes) -> None:
    assert refuse(data).slug == "bad-recipe"


@given(st.data())
def test_any_change_of_the_text_is_refused_or_still_canonical(data: st.DataObject) -> None:
    text = bytearray(encode_recipe(make_recipe()))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    try:
        recipe = decode_recipe(bytes(text))
    except InvalidRecord:
        return
    assert encode_recipe(recipe) == bytes(text)


def test_averages_are_slots_of_trained_parameters() -> None:
    recipe = change(ema_decay=0.9)
    assert get_optimizer_specs(recipe, 0) == ()
    names = [spec.name for spec in get_optimizer_specs(recipe, 1)]
    assert names == ["weight.momentum_buffer", "weight.average"]


def test_people_can_read_it() -> None:
    assert json.loads(encode_recipe(make_recipe()))["groups"][0]["optimizer"]["kind"] == "sgd"
