"""What a holder refuses, each as exactly that corruption of a real record, and what it admits."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from milepost_consensus.payloads import Submit, validate_submit
from milepost_consensus.step_digests import compute_state_digest
from milepost_ml import commitments
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.augmentation import Crop
from milepost_ml.distance import MAX_SCORE
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    DATA,
    MODEL,
    RECIPE,
    RUN,
    BlobFiles,
    ManifestFile,
    RecordFiles,
    build_manifest,
    compute_file_names,
    decode_manifest,
    encode_manifest,
)
from milepost_ml.recipe import Recipe, compute_recipe_digest, encode_recipe, set_rates
from milepost_ml.record_files import compute_stride_bytes, read_state
from milepost_ml.snapshots import read_tensors
from milepost_ml.updates import ClipNorm, ClipValue
from tests.support.records import (
    INTERVALS,
    RECORDS,
    STEPS,
    Spoilt,
    get_manifest_fields,
    read_recipe_of,
    record_tiny_run,
)
from tests.support.training import record

SNAPSHOT = "mileposts/00002.safetensors"
LAST = f"mileposts/{INTERVALS:05d}.safetensors"
STEPS_FILE = "steps/00001.bin"
STEP_BYTES = compute_stride_bytes(1)
Tensors = dict[str, NDArray[Any]]


def _refusal(submit: Submit, files: RecordFiles) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        validate_record(submit, files)
    return caught.value


def _build_refusal(folder: Path) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        build_submit(folder)
    return caught.value


# What is admitted --------------------------------------------------------------------------------


def test_a_real_record_is_admitted(tiny_run: Path, spoilt: Spoilt) -> None:
    submit, manifest = build_submit(tiny_run)
    validate_submit(submit)
    validate_record(submit, spoilt.files)
    assert (submit.name, submit.records, submit.steps) == ("tiny", RECORDS, STEPS)
    assert len(submit.step_roots) == INTERVALS
    assert len(submit.snapshots) == len({*submit.snapshots}) == INTERVALS + 1
    assert all(0 < score < MAX_SCORE for score in submit.change_scores)
    # Four steps at 0.1; two at 0.1 and two at 0.05; ... the last interval has two steps.
    assert submit.rate_sums == (400_000_000, 300_000_000, 200_000_000, 100_000_000, 50_000_000)
    assert submit.size_bytes == sum(
        (tiny_run / name).stat().st_size for name in compute_file_names(INTERVALS)
    )
    assert manifest == build_manifest(tiny_run)
    assert submit.manifest == hashlib.sha256(encode_manifest(manifest)).digest()
    assert submit.step_us >= 1


def test_a_record_in_a_blob_store_is_admitted(tiny_run: Path, tmp_path: Path) -> None:
    submit, manifest = build_submit(tiny_run)
    for file in manifest.files:
        shutil.copy(tiny_run / file.name, tmp_path / file.digest)
    listed = decode_manifest(encode_manifest(manifest))
    files = BlobFiles(listed, lambda digest: tmp_path / digest.hex())
    validate_record(submit, files)
    (tmp_path / manifest.files[3].digest).unlink()
    assert _refusal(submit, files).slug == "incomplete"


def test_the_same_run_recorded_twice_gives_the_same_submission(
    tiny_submit: Submit, tmp_path: Path
) -> None:
    again, _ = build_submit(record_tiny_run(tmp_path))
    assert msgspec.structs.replace(again, step_us=tiny_submit.step_us) == tiny_submit


def test_checking_a_record_never_imports_the_framework(tiny_run: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from milepost_ml.admission import build_submit, validate_record;"
        "from milepost_ml.files import FolderFiles;"
        "folder = Path(sys.argv[1]);"
        "validate_record(build_submit(folder)[0], FolderFiles(folder));"
        "print([name for name in ('torch', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_run],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_no_more_than_two_snapshots_are_in_memory(
    tiny_run: Path, tiny_submit: Submit, spoilt: Spoilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[weakref.ref[NDArray[Any]]]] = []

    def watch(files: RecordFiles, recipe: Recipe, snapshot: int) -> Tensors:
        alive = [k for k, arrays in enumerate(seen) if any(ref() is not None for ref in arrays)]
        assert alive in ([], [snapshot - 1])
        state = read_state(files, recipe, snapshot)
        seen.append([weakref.ref(array) for array in state.values()])
        return state

    monkeypatch.setattr(commitments, "read_state", watch)
    validate_record(tiny_submit, spoilt.files)
    assert len(seen) == INTERVALS + 1


# A submission that says other than its files -----------------------------------------------------


def _flip(digest: bytes) -> bytes:
    return bytes([digest[0] ^ 1]) + digest[1:]


def _change_one(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


LIES: dict[str, Callable[[Submit], dict[str, Any]]] = {
    "recipe": lambda s: {"recipe": _flip(s.recipe)},
    "dataset_root": lambda s: {"dataset_root": _flip(s.dataset_root)},
    "records": lambda s: {"records": s.records + 1},
    "device_class": lambda s: {"device_class": "torch-0/other"},
    "snapshots[2]": lambda s: {"snapshots": _change_one(s.snapshots, 2, _flip(s.snapshots[2]))},
    "step_roots[1]": lambda s: {"step_roots": _change_one(s.step_roots, 1, _flip(s.step_roots[1]))},
    "change_scores[3]": lambda s: {
        "change_scores": _change_one(s.change_scores, 3, s.change_scores[3] - 1)
    },
    "rate_sums[4]": lambda s: {"rate_sums": _change_one(s.rate_sums, 4, s.rate_sums[4] + 1)},
    "manifest": lambda s: {"manifest": _flip(s.manifest)},
    "size_bytes": lambda s: {"size_bytes": s.size_bytes + 1},
}


@pytest.mark.parametrize("field", LIES)
def test_a_false_field_is_named(field: str, tiny_submit: Submit, spoilt: Spoilt) -> None:
    lie = msgspec.structs.replace(tiny_submit, **LIES[field](tiny_submit))
    error = _refusal(lie, spoilt.files)
    assert error.slug == "bad-record"
    assert f"the submission says {field} = " in str(error)


def test_another_model_cannot_be_opened_from_the_last_snapshot(
    tiny_submit: Submit, spoilt: Spoilt
) -> None:
    lie = msgspec.structs.replace(tiny_submit, model_digest=_flip(tiny_submit.model_digest))
    assert _refusal(lie, spoilt.files).slug == "bad-record"
    # A last snapshot made to open into the other model is not the snapshot in the files.
    opened = compute_state_digest(lie.steps, lie.model_digest, lie.optimizer_digest)
    lie = msgspec.structs.replace(lie, snapshots=(*lie.snapshots[:-1], opened))
    assert f"snapshots[{INTERVALS}]" in str(_refusal(lie, spoilt.files))


def test_more_steps_than_the_recipe_declares_are_refused(
    tiny_submit: Submit, spoilt: Spoilt
) -> None:
    opened = compute_state_digest(STEPS + 1, tiny_submit.model_digest, tiny_submit.optimizer_digest)
    lie = msgspec.structs.replace(
        tiny_submit, steps=STEPS + 1, snapshots=(*tiny_submit.snapshots[:-1], opened)
    )
    validate_submit(lie)
    assert "the submission says steps = 19" in str(_refusal(lie, spoilt.files))


def test_a_submission_that_is_not_well_formed_is_refused_before_any_file(
    tiny_submit: Submit, tmp_path: Path
) -> None:
    class NoFiles:
        def path(self, name: str) -> Path:
            raise AssertionError(name)

    short = msgspec.structs.replace(tiny_submit, change_scores=tiny_submit.change_scores[:-1])
    assert _refusal(short, NoFiles()).slug == "bad-record"
    unknown = msgspec.structs.replace(tiny_submit, profile="guess")
    assert _refusal(unknown, NoFiles()).slug == "bad-profile"


# Data --------------------------------------------------------------------------------------------


def test_data_edited_after_recording_is_named(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["data.0"][17, 2] += 1.0

    spoilt.edit_tensors(DATA, edit)
    for error in (_build_refusal(spoilt.folder), _refusal(spoilt.resubmit(), spoilt.files)):
        assert error.slug == "data-changed"
        assert "data.safetensors is not the data that was recorded" in str(error)
    # The whole first epoch fits into intervals 0 and 1, so the record is narrowed down there.
    assert "1 of 4 steps saw other records" in str(_build_refusal(spoilt.folder))


def test_a_relabelled_record_is_named(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["data.1"][5] = 2 - tensors["data.1"][5] // 2

    spoilt.edit_tensors(DATA, edit)
    assert _build_refusal(spoilt.folder).slug == "data-changed"


def test_data_in_another_order_are_refused(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] = tensors[name][::-1].copy()

    spoilt.edit_tensors(DATA, edit)
    assert _refusal(spoilt.resubmit(), spoilt.files).slug == "data-changed"


def test_data_with_nan_are_refused(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["data.0"][9, 0] = np.nan

    spoilt.edit_tensors(DATA, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "not-finite"
    assert "data.0 (first: record 9)" in str(error)


def test_data_of_another_shape_are_refused(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["data.0"] = tensors["data.0"][:-1]

    spoilt.edit_tensors(DATA, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "wrong-tensors"
    assert "data.0 is F32 [21, 6], the recipe says F32 [22, 6]" in str(error)


# Snapshots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, -1])
def test_a_truncated_snapshot_is_refused_by_name(spoilt: Spoilt, size: int) -> None:
    spoilt.edit_bytes(SNAPSHOT, lambda data: data.__delitem__(slice(size, None)))
    for error in (_build_refusal(spoilt.folder), _refusal(spoilt.resubmit(), spoilt.files)):
        assert error.slug == "snapshot-broken"
        assert str(error).startswith(f"{SNAPSHOT}: ")


@pytest.mark.parametrize("name", [DATA, SNAPSHOT, STEPS_FILE])
def test_an_empty_file_is_refused_by_name(spoilt: Spoilt, name: str) -> None:
    (spoilt.folder / name).write_bytes(b"")
    for error in (_build_refusal(spoilt.folder), _refusal(spoilt.submit, spoilt.files)):
        assert error.slug == "snapshot-broken"
        assert str(error).startswith(f"{name}: ")


def test_a_snapshot_with_trailing_bytes_is_refused(spoilt: Spoilt) -> None:
    spoilt.edit_bytes(SNAPSHOT, lambda data: data.extend(b"more"))
    assert _refusal(spoilt.resubmit(), spoilt.files).slug == "snapshot-broken"


def test_a_snapshot_with_an_oversized_header_is_refused(spoilt: Spoilt) -> None:
    def edit(data: bytearray) -> None:
        data[:8] = (2**40).to_bytes(8, "little")

    spoilt.edit_bytes(SNAPSHOT, edit)
    assert _refusal(spoilt.resubmit(), spoilt.files).slug == "snapshot-broken"


def _add(tensors: Tensors) -> None:
    tensors["model.lora.A"] = np.zeros((2, 2), np.float32)


def _remove(tensors: Tensors) -> None:
    del tensors["model.norm.running_mean"]


def _widen(tensors: Tensors) -> None:
    tensors["model.first.weight"] = tensors["model.first.weight"].astype(np.float64)


def _turn(tensors: Tensors) -> None:
    tensors["model.first.weight"] = tensors["model.first.weight"].T.copy()


def _forget_momentum(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("optimizer.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_add, "model.lora.A"),
        (_remove, "model.norm.running_mean"),
        (_widen, "model.first.weight is F64"),
        (_turn, "model.first.weight is F32 [6, 5]"),
        (_forget_momentum, "optimizer.first.bias.momentum_buffer"),
    ],
    ids=["extra", "missing", "dtype", "shape", "momentum"],
)
def test_other_tensors_than_the_recipe_declares_are_refused_by_name(
    spoilt: Spoilt, edit: Callable[[Tensors], None], named: str
) -> None:
    spoilt.edit_tensors(SNAPSHOT, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "wrong-tensors"
    assert SNAPSHOT in str(error)
    assert named in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    ["model.first.weight", "model.norm.running_var", "optimizer.first.weight.momentum_buffer"],
)
def test_a_snapshot_that_is_not_finite_is_refused_by_tensor(
    spoilt: Spoilt, name: str, value: float
) -> None:
    def edit(tensors: Tensors) -> None:
        tensors[name].reshape(-1)[1] = value

    spoilt.edit_tensors(SNAPSHOT, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "not-finite"
    assert SNAPSHOT in str(error)
    assert name in str(error)


def test_a_pickle_in_place_of_a_snapshot_is_not_opened(spoilt: Spoilt) -> None:
    torch.save({"model.first.weight": torch.zeros(2)}, spoilt.folder / SNAPSHOT)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "pickle-refused"
    assert SNAPSHOT in str(error)


@pytest.mark.parametrize(
    "name",
    ["model.first.weight", "model.norm.running_mean", "optimizer.norm.bias.momentum_buffer"],
)
def test_a_changed_value_contradicts_the_steps(spoilt: Spoilt, name: str) -> None:
    def edit(tensors: Tensors) -> None:
        tensors[name].reshape(-1)[0] += 1e-3

    spoilt.edit_tensors(SNAPSHOT, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "bad-record"
    assert SNAPSHOT in str(error)
    assert "steps/00001.bin" in str(error)


def test_a_changed_first_snapshot_contradicts_the_submission(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["model.first.weight"][0, 0] += 1e-3

    spoilt.edit_tensors("mileposts/00000.safetensors", edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "bad-record"
    assert "snapshots[0]" in str(error)


def test_exchanged_snapshots_are_refused(spoilt: Spoilt) -> None:
    first, second = spoilt.folder / SNAPSHOT, spoilt.folder / "mileposts/00003.safetensors"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    assert _refusal(spoilt.resubmit(), spoilt.files).slug == "bad-record"


# Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, STEP_BYTES, 4 * STEP_BYTES - 1])
def test_a_truncated_steps_file_is_refused(spoilt: Spoilt, size: int) -> None:
    spoilt.edit_bytes(STEPS_FILE, lambda data: data.__delitem__(slice(size, None)))
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "snapshot-broken"
    assert str(error).startswith(f"{STEPS_FILE}: 4 steps take 400 bytes")


def test_a_steps_file_with_one_step_more_is_refused(spoilt: Spoilt) -> None:
    spoilt.edit_bytes(STEPS_FILE, lambda data: data.extend(data[-STEP_BYTES:]))
    assert _refusal(spoilt.resubmit(), spoilt.files).slug == "snapshot-broken"


def _edit_step(place: int, start: int, value: bytes) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        at = place * STEP_BYTES + start
        data[at : at + len(value)] = value

    return edit


@pytest.mark.parametrize(
    ("start", "value"),
    [(32, bytes(32)), (64, struct.pack("<f", 0.5)), (68, bytes(32))],
    ids=["gradient", "loss", "state"],
)
def test_another_gradient_loss_or_inner_state_is_another_root(
    spoilt: Spoilt, start: int, value: bytes
) -> None:
    spoilt.edit_bytes(STEPS_FILE, _edit_step(1, start, value))
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "bad-record"
    assert "step_roots[1]" in str(error)


def test_a_last_state_that_is_not_the_next_snapshot_is_refused(spoilt: Spoilt) -> None:
    spoilt.edit_bytes(STEPS_FILE, _edit_step(3, 68, bytes(32)))
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "bad-record"
    assert "mileposts/00002.safetensors" in str(error)


def test_a_batch_out_of_order_is_refused(spoilt: Spoilt) -> None:
    # Steps 5 and 6 exchange their batches: the same records, not at the steps that the seed says.
    def edit(data: bytearray) -> None:
        data[100:132], data[200:232] = data[200:232], data[100:132]

    spoilt.edit_bytes(STEPS_FILE, edit)
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "data-changed"
    assert "2 of 4 steps saw other records (first: step 5)" in str(error)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(spoilt: Spoilt, loss: float) -> None:
    spoilt.edit_bytes(STEPS_FILE, _edit_step(2, 64, struct.pack("<f", loss)))
    error = _refusal(spoilt.resubmit(), spoilt.files)
    assert error.slug == "not-finite"
    assert "the loss of step 6" in str(error)


# Recipe and file set -----------------------------------------------------------------------------


def _resubmit_recipe(spoilt: Spoilt, data: bytes) -> Submit:
    (spoilt.folder / RECIPE).write_bytes(data)
    sizes = get_manifest_fields(build_manifest(spoilt.folder))
    return msgspec.structs.replace(spoilt.submit, recipe=compute_recipe_digest(data), **sizes)


def test_an_operator_that_is_not_on_the_list_is_refused_by_name(spoilt: Spoilt) -> None:
    recipe = json.loads((spoilt.folder / RECIPE).read_bytes())
    recipe["graph"]["nodes"][0]["op"] = "os.system.default"
    data = msgspec.json.encode(recipe)
    error = _refusal(_resubmit_recipe(spoilt, data), spoilt.files)
    assert error.slug == "unknown-operator"
    assert "os.system.default" in str(error)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, b'{"format":1}', b"\xff"],
    ids=["empty", "fields", "deep", "type", "text"],
)
def test_a_recipe_that_is_none_is_refused(spoilt: Spoilt, data: bytes) -> None:
    (spoilt.folder / RECIPE).write_bytes(data)
    lie = msgspec.structs.replace(spoilt.submit, recipe=compute_recipe_digest(data))
    assert _refusal(lie, spoilt.files).slug == "bad-recipe"


def test_another_seed_than_the_one_recorded_with_is_refused(spoilt: Spoilt) -> None:
    recipe = msgspec.structs.replace(read_recipe_of(spoilt.folder), seed="00" * 32)
    lie = _resubmit_recipe(spoilt, encode_recipe(recipe))
    assert _refusal(lie, spoilt.files).slug == "data-changed"


def test_other_learning_rates_are_other_rate_sums(spoilt: Spoilt) -> None:
    recipe = set_rates(read_recipe_of(spoilt.folder), STEPS, [((STEPS, 0.1),)])
    lie = _resubmit_recipe(spoilt, encode_recipe(recipe))
    assert "rate_sums[1]" in str(_refusal(lie, spoilt.files))


HOSTILE: dict[str, Callable[[Recipe], dict[str, Any]]] = {
    "a group twice": lambda r: {"groups": r.groups * 2},
    "no group": lambda r: {"groups": ()},
    "a parameter in no group": lambda r: {
        "groups": (msgspec.structs.replace(r.groups[0], parameters=()),)
    },
    "negative clip": lambda _: {"clip": ClipNorm(-1.0)},
    "endless clip": lambda _: {"clip": ClipValue(float(10**9))},
    "no batch a step": lambda _: {"accumulate": 0},
    "endless steps": lambda _: {"accumulate": 2**40},
    "crop of no image": lambda _: {"augment": (Crop(padding=1),)},
    "growing average": lambda _: {"ema_decay": 1.5},
    "precision of another class": lambda _: {"autocast": "bfloat16"},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_loop_that_nobody_can_follow_is_refused(
    change: Callable[[Recipe], dict[str, Any]], spoilt: Spoilt
) -> None:
    recipe = read_recipe_of(spoilt.folder)
    data = encode_recipe(msgspec.structs.replace(recipe, **change(recipe)))
    assert _refusal(_resubmit_recipe(spoilt, data), spoilt.files).slug == "bad-recipe"


def test_a_crop_larger_than_the_images_is_refused(tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", steps=2, every=2, augment=[Crop(padding=4)])
    case = Spoilt(folder, build_submit(folder)[0])
    recipe = msgspec.structs.replace(read_recipe_of(folder), augment=(Crop(padding=12),))
    lie = _resubmit_recipe(case, encode_recipe(recipe))
    error = _refusal(lie, case.files)
    assert error.slug == "bad-recipe"
    assert "allow 1 to 11" in str(error)


def test_more_records_than_can_be_checked_are_refused_unread(spoilt: Spoilt) -> None:
    recipe = read_recipe_of(spoilt.folder)
    many = tuple(
        msgspec.structs.replace(spec, shape=(2**25, *spec.shape[1:])) for spec in recipe.data
    )
    lie = _resubmit_recipe(spoilt, encode_recipe(msgspec.structs.replace(recipe, data=many)))
    assert _refusal(lie, spoilt.files).slug == "too-large"


@pytest.mark.parametrize("name", [RECIPE, DATA, SNAPSHOT, STEPS_FILE])
def test_a_missing_file_is_named(spoilt: Spoilt, name: str) -> None:
    (spoilt.folder / name).unlink()
    for error in (_build_refusal(spoilt.folder), _refusal(spoilt.submit, spoilt.files)):
        assert error.slug == "incomplete"
        assert name in str(error)


def test_a_manifest_with_a_file_more_is_not_that_of_the_record(
    tiny_run: Path, tiny_submit: Submit, spoilt: Spoilt
) -> None:
    manifest = build_manifest(tiny_run)
    more = ManifestFile("steps/99999.bin", "00" * 32, 1)
    extended = msgspec.structs.replace(manifest, files=(*manifest.files, more))
    lie = msgspec.structs.replace(tiny_submit, **get_manifest_fields(extended))
    assert "manifest" in str(_refusal(lie, spoilt.files))


@pytest.mark.slow
def test_no_flipped_bit_is_admitted_unless_the_content_is_the_same(spoilt: Spoilt) -> None:
    rng = np.random.default_rng(11)
    names = compute_file_names(INTERVALS)
    admitted = 0
    for _ in range(400):
        path = spoilt.folder / names[rng.integers(len(names))]
        kept = path.read_bytes()
        data = bytearray(kept)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(InvalidRecord):
            validate_record(spoilt.submit, spoilt.files)
        try:
            validate_record(spoilt.resubmit(), spoilt.files)
        except InvalidRecord:
            pass
        else:
            # Only the padding of a header is not content.
            admitted += 1
            assert path.suffix == ".safetensors"
            assert read_tensors(path).keys()
        path.write_bytes(kept)
    assert admitted < 20
    validate_record(spoilt.submit, spoilt.files)


# The submitter's own folder ----------------------------------------------------------------------


def test_a_run_that_stopped_early_is_not_submitted(spoilt: Spoilt) -> None:
    about = json.loads((spoilt.folder / RUN).read_text())
    (spoilt.folder / RUN).write_text(json.dumps({**about, "complete": False}))
    error = _build_refusal(spoilt.folder)
    assert error.slug == "incomplete"
    assert spoilt.folder.name in str(error)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"complete": 1}'])
def test_a_broken_run_file_is_not_a_complete_run(spoilt: Spoilt, text: str) -> None:
    (spoilt.folder / RUN).write_text(text)
    assert _build_refusal(spoilt.folder).slug == "incomplete"


@pytest.mark.parametrize("text", ["{", "{}\n", '{"seconds": "x"}', '{"seconds": NaN}', "[]"])
def test_a_broken_journal_is_refused(spoilt: Spoilt, text: str) -> None:
    (spoilt.folder / "journal.jsonl").write_text(text)
    assert _build_refusal(spoilt.folder).slug == "incomplete"


def test_the_seconds_of_a_step_are_those_of_the_journal(spoilt: Spoilt) -> None:
    (spoilt.folder / "journal.jsonl").write_text('{"seconds": 0.5}\n{"seconds": 0.4}\n')
    assert build_submit(spoilt.folder)[0].step_us == 50_000


def test_a_name_that_no_ledger_takes_is_refused(spoilt: Spoilt) -> None:
    about = json.loads((spoilt.folder / RUN).read_text())
    (spoilt.folder / RUN).write_text(json.dumps({**about, "name": "two\nlines"}))
    assert _build_refusal(spoilt.folder).slug == "bad-encoding"


def test_a_model_file_with_other_values_is_named_by_tensor(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["second.weight"][1, 1] += 0.25

    spoilt.edit_tensors(MODEL, edit)
    error = _build_refusal(spoilt.folder)
    assert error.slug == "model-changed"
    assert LAST in str(error)
    assert "second.weight  [3, 5]  1 of 15 values, largest difference 2.5e-01" in str(error)


def test_a_model_file_with_other_tensors_is_another_architecture(spoilt: Spoilt) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["lora.A"] = np.zeros((2, 2), np.float32)
        del tensors["norm.running_var"]

    spoilt.edit_tensors(MODEL, edit)
    error = _build_refusal(spoilt.folder)
    assert error.slug == "wrong-architecture"
    assert "extra lora.A, missing norm.running_var" in str(error)


def test_a_missing_model_file_is_named(spoilt: Spoilt) -> None:
    (spoilt.folder / MODEL).unlink()
    error = _build_refusal(spoilt.folder)
    assert error.slug == "incomplete"
    assert MODEL in str(error)
