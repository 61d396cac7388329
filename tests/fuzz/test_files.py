"""Files that come from others, or that somebody edited: JSON, TOML, manifests, recipes, tensors."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from msgspec.structs import replace

from milepost.bundle import parse_proof, read_proof, read_trust
from milepost.errors import CannotTell
from milepost_consensus.errors import InvalidEncoding, InvalidInput
from milepost_consensus.light import (
    ProofBundle,
    dump_proof,
    dump_trust,
    load_proof,
    load_trust,
    make_trust,
    open_envelope,
    seal_bundle,
    verify_bundle,
)
from milepost_consensus.members import Genesis, validate_genesis
from milepost_consensus.views import from_view, parse_json, to_view
from milepost_ml.files import (
    Manifest,
    ManifestFile,
    compute_file_names,
    decode_manifest,
    encode_manifest,
)
from milepost_ml.recipe import decode_recipe, encode_recipe
from milepost_ml.snapshots import TensorSpec, encode_header, read_header
from milepost_node.errors import SettingsError
from milepost_node.settings import read_settings
from tests.fuzz.mutations import TEXT_PIECES, mutate
from tests.fuzz.properties import (
    THOROUGH,
    assert_bounded,
    assert_explained,
    refuse_or_return,
    run_property,
)
from tests.fuzz.values import make_values
from tests.support.ledger import make_hash
from tests.support.nodes import make_named_genesis, write_home
from tests.support.recipes import make_recipe

GENESIS = make_named_genesis(4)
TRUST = make_trust(GENESIS)
SEEDS = st.integers(0, 2**32)
MUTANTS = 10


def write(view: object) -> bytes:
    return json.dumps(view).encode()


def read_genesis(data: bytes) -> bytes:
    genesis = from_view(Genesis, parse_json(data))
    validate_genesis(genesis)
    return write(to_view(genesis))


def read_trust_bytes(data: bytes) -> bytes:
    return write(dump_trust(load_trust(parse_json(data))))


def read_bundle(data: bytes) -> bytes:
    bundle = open_envelope(load_proof(parse_json(data)))
    # No value that has the form of a bundle breaks the checks that follow.
    refuse_or_return(lambda _: verify_bundle(bundle, TRUST), b"")
    return write(dump_proof(seal_bundle(bundle)))


def read_manifest(data: bytes) -> bytes:
    return encode_manifest(decode_manifest(data))


def read_recipe(data: bytes) -> bytes:
    return encode_recipe(decode_recipe(data))


def read_tensors(data: bytes) -> bytes:
    read_header(io.BytesIO(data), name="x.safetensors")
    return b""


def make_manifest() -> bytes:
    files = [ManifestFile(name, make_hash(name).hex(), 9) for name in compute_file_names(3)]
    return encode_manifest(Manifest(tuple(files)))


def make_tensors() -> bytes:
    specs = (TensorSpec("a", "F32", (2, 3)), TensorSpec("b.c", "I64", ()))
    header = encode_header(specs)
    size = len(header).to_bytes(8, "little")
    return size + header + bytes(sum(spec.size_bytes for spec in specs))


READERS: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "genesis": (read_genesis, write(to_view(GENESIS))),
    "trust": (read_trust_bytes, write(dump_trust(TRUST))),
    "manifest": (read_manifest, make_manifest()),
    "recipe": (read_recipe, encode_recipe(make_recipe())),
    "tensors": (read_tensors, make_tensors()),
}
CANONICAL = ("manifest", "recipe")
"""Files whose bytes are an identity: what is accepted is what would be written."""


@pytest.mark.parametrize("times", THOROUGH)
@pytest.mark.parametrize("name", READERS)
def test_hurt_files_are_refused(name: str, times: int) -> None:
    read, good = READERS[name]
    assert read(good) in (good, b"")

    def check(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(MUTANTS):
            hurt = mutate(rng, good, TEXT_PIECES)
            found = refuse_or_return(read, hurt)
            if found is not None and name in CANONICAL:
                assert found == hurt

    run_property(check, SEEDS, examples=25, times=times)


@pytest.mark.parametrize("times", THOROUGH)
def test_hurt_proofs_are_refused(times: int) -> None:
    def check(drawn: tuple[ProofBundle, int]) -> None:
        bundle, seed = drawn
        # A statement names its model by a digest of the usual size.
        bundle = replace(bundle, verdict=replace(bundle.verdict, model_digest=bytes(32)))
        good = write(dump_proof(seal_bundle(bundle)))
        assert read_bundle(good) == good
        rng = random.Random(seed)
        for _ in range(MUTANTS):
            refuse_or_return(read_bundle, mutate(rng, good, TEXT_PIECES))

    inputs = st.tuples(make_values(ProofBundle), SEEDS)
    run_property(check, inputs, examples=15, times=times)


@pytest.mark.parametrize("name", READERS)
def test_memory_is_bounded_by_the_size_of_a_file(name: str) -> None:
    read, good = READERS[name]
    for piece in (b"[" * 400_000, b"[]," * 100_000, b'{"a":' * 50_000, b"7" * 300_000):
        for hurt in (piece, good[:-1] + b"," + piece, good.replace(b"[", b"[" + piece, 1)):
            assert_bounded(read, hurt)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', "NaN", "[Infinity]", "-Infinity", "1e999"],
)
def test_json_that_two_readers_understand_differently_is_refused(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        parse_json(text)


def test_json_is_utf_8() -> None:
    for text in ('{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b'"\xff"'):
        with pytest.raises(InvalidEncoding):
            parse_json(text)


def test_a_refusal_does_not_repeat_a_page() -> None:
    params = replace(GENESIS.params, rule="x" * 50_000)
    with pytest.raises(InvalidInput) as caught:
        validate_genesis(replace(GENESIS, params=params))
    assert_explained(caught.value, caught.value.slug)


def test_plain_json_is_read_as_ever() -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {}}
    assert parse_json(json.dumps(value)) == value


# What the command and the node make of them ------------------------------------------------------


def read_as_client(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except CannotTell as error:
        refusal = error
    else:
        return
    assert_explained(refusal, refusal.slug)


@pytest.mark.parametrize("times", THOROUGH)
def test_client_cannot_tell_from_hurt_files(times: int, tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def check(drawn: tuple[ProofBundle, int]) -> None:
        bundle, seed = drawn
        rng = random.Random(seed)
        for good, read in (
            (write(dump_proof(seal_bundle(bundle))), read_proof),
            (READERS["trust"][1], read_trust),
        ):
            path.write_bytes(mutate(rng, good, TEXT_PIECES))
            read_as_client(read, path)

    inputs = st.tuples(make_values(ProofBundle), SEEDS)
    run_property(check, inputs, examples=25, times=times)
    odd: tuple[object, ...] = (None, 3, [], {}, {"unsigned": {"model_sha256": "\ud800"}})
    for view in odd:
        with pytest.raises(CannotTell):
            parse_proof(view, where="here")


@pytest.mark.parametrize("times", THOROUGH)
def test_a_hurt_home_is_explained(times: int, tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", GENESIS, "node-1")
    toml = home / "node.toml"
    toml.write_text(toml.read_text() + "threads = 2\n[limits]\nblob_bytes = 4096\n")
    names = ("node.toml", "node.toml", "genesis.json", "node.key")
    good = {name: (home / name).read_bytes() for name in names}
    read_settings(home)

    def check(seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice(names)
        (home / name).write_bytes(mutate(rng, good[name], TEXT_PIECES))
        try:
            read_settings(home)
        except SettingsError as error:
            refusal = error
        else:
            return
        finally:
            (home / name).write_bytes(good[name])
        assert_explained(refusal, refusal.slug)

    run_property(check, SEEDS, examples=150, times=times)


@pytest.mark.parametrize(
    "line",
    [
        "port = " + "7" * 5_000,
        "port = 0x" + "f" * 5_000,
        "host = [0x" + "f" * 5_000 + "]",
        "host = " + "[" * 5_000,
        'name = "' + "x" * 100_000 + '"',
        "x" * 100_000 + " = 1",
        "[limits]\n" + "x" * 100_000 + " = 1",
        "[limits]\nblob_bytes = 1e999",
        "limits = 3",
        "threads = nan",
        "threads = 2021-02-30",
        "a." * 5_000 + "a = 1",
    ],
    ids=lambda line: line[:24],
)
def test_odd_settings_are_explained_in_a_few_words(line: str, tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", GENESIS, "node-1")
    first = line.partition(" ")[0]
    kept = [each for each in (home / "node.toml").read_text().splitlines() if first not in each]
    (home / "node.toml").write_text("\n".join([*kept, line]))
    with pytest.raises(SettingsError) as caught:
        read_settings(home)
    assert_explained(caught.value, caught.value.slug)
