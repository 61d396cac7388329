"""The corpus, replayed: each input is refused, or is exactly what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from milepost_consensus.encoding import Wire, decode, encode
from milepost_node.envelopes import decode_batch, encode_batch, open_envelope
from milepost_node.errors import SettingsError
from milepost_node.settings import read_settings
from tests.fuzz.corpus_seeds import CORPUS, FILE_BYTES, make_bulky, make_seeds
from tests.fuzz.properties import assert_bounded, assert_explained, refuse_or_return
from tests.fuzz.stage import make_request, open_stage
from tests.fuzz.test_files import READERS, read_bundle
from tests.fuzz.values import get_wire_types
from tests.support.nodes import make_named_genesis, write_home

FILES = {file.stem: file.read_bytes() for file in sorted(CORPUS.glob("*.bin"))}
INPUTS = FILES | make_bulky()
TYPES = {kind.__name__: kind for kind in get_wire_types()}


def read_canonical(kind: type[Wire], data: bytes) -> None:
    assert encode(decode(kind, data)) == data


def read_batch(data: bytes) -> None:
    batch = decode_batch(data)
    assert decode_batch(encode_batch(batch)) == batch
    for envelope in batch:
        refuse_or_return(lambda _: open_envelope(envelope), b"")  # noqa: B023


def read_toml(data: bytes, folder: Path) -> None:
    home = write_home(folder / "home", make_named_genesis(4), "node-1")
    (home / "node.toml").write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        read_settings(home)
    assert_explained(caught.value, caught.value.slug)


async def say(data: bytes, folder: Path) -> None:
    async with asyncio.timeout(60), open_stage(folder) as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(data)
        writer.write_eof()
        answer = await reader.read(100)
        writer.transport.abort()
        assert answer[9:12] in (b"", b"400", b"404", b"405", b"413", b"422"), answer
        assert (await stage.say(make_request("GET", "/health/live"))).status == 200


@pytest.mark.parametrize("name", INPUTS)
def test_replay(name: str, tmp_path: Path) -> None:
    reader, _, _ = name.partition("--")
    data = INPUTS[name]
    if reader in TYPES:
        refuse_or_return(lambda data: read_canonical(TYPES[reader], data), data)
        assert_bounded(lambda data: decode(TYPES[reader], data), data)
    elif reader in READERS:
        assert refuse_or_return(READERS[reader][0], data) is None
        assert_bounded(READERS[reader][0], data)
    elif reader == "batch":
        refuse_or_return(read_batch, data)
        assert_bounded(decode_batch, data)
    elif reader == "proof":
        assert refuse_or_return(read_bundle, data) is None
    elif reader == "node.toml":
        read_toml(data, tmp_path)
    else:
        assert reader == "http", f"no reader for {name}"
        asyncio.run(say(data, tmp_path))


def test_files_are_what_their_descriptions_say() -> None:
    seeds = make_seeds()
    assert {name: FILES.get(name) for name in seeds} == seeds, (
        "run python -m tests.fuzz.corpus_seeds"
    )


def test_bulk_is_made_not_stored() -> None:
    assert max(map(len, FILES.values())) <= FILE_BYTES < min(map(len, make_bulky().values()))
    assert not FILES.keys() & make_bulky().keys()
