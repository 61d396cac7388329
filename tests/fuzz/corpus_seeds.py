"""The inputs of the corpus that a line of code describes better than bytes do.

Small ones are files of the corpus too, so that they stay what they were when this code changes;
those that are bulk and nothing else are made when the tests run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from milepost_consensus.encoding import encode
from milepost_consensus.votes import Vote

CORPUS: Final = Path(__file__).parent / "corpus"
FILE_BYTES: Final = 4_096
"""What is larger is made, not stored."""
_VOTE: Final = encode(Vote(5, 0, 1, bytes(32), bytes(32), bytes(64)))
_HEAD: Final = b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\n"


def make_seeds() -> dict[str, bytes]:
    """Names and contents of files in the corpus."""
    return {
        "Vote--integer-spelled-longer": _VOTE.replace(b"\x05", b"\xcc\x05", 1),
        "Vote--trailing-byte": _VOTE + b"\x00",
        "Vote--bytes-as-text": _VOTE.replace(b"\xc4\x20", b"\xd9\x20", 1),
        "Vote--time-extension": b"\x96\xd6\xff\x00\x00\x00\x00" + _VOTE[2:],
        "Tx--text-with-half-a-surrogate": b"\x95\xa3\xed\xa0\x80\xc4\x00\x00\xc4\x00\xc4\x00",
        "Tx--text-of-a-megabyte-promised": b"\x95\xdb\x00\x10\x00\x00abc",
        "Certificate--four-thousand-million-signers": b"\x95\x00\x00\xc4\x00\xdd\xff\xff\xff\xff",
        "batch--four-thousand-million-messages": b"\xdd\xff\xff\xff\xff",
        "genesis--name-twice": b'{"network": "a", "network": "b"}',
        "genesis--not-a-number": b'{"time_ms": NaN}',
        "genesis--number-without-bound": b'{"time_ms": 1e999}',
        "genesis--key-with-half-a-surrogate": b'{"\\ud800": 1}',
        "genesis--utf-16": '{"a": 1}'.encode("utf-16"),
        "genesis--byte-order-mark": b"\xef\xbb\xbf{}",
        "tensors--length-of-all": b"\xff" * 8,
        "tensors--pickle": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "proof--null": b"null",
        "node.toml--impossible-date": b"threads = 2021-02-30",
        "http--two-lengths": _HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "http--chunk-of-all": _HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n",
        "http--path-not-ascii": b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        "http--path-with-slash-at-the-end": b"GET /v1/blobs/ HTTP/1.1\r\nhost: evil\r\n\r\n",
        "http--connect": b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    }


def make_bulky() -> dict[str, bytes]:
    """Names and contents of inputs that no file keeps."""
    return {
        "Vote--nested-deeply": b"\x91" * 60_000,
        "batch--five-thousand-empty-messages": msgspec.msgpack.encode([("", b"")] * 5_000),
        "batch--unknown-kind-of-a-page": msgspec.msgpack.encode([("k" * 5_000, b"")]),
        "genesis--number-of-5000-digits": b'{"time_ms": ' + b"7" * 5_000 + b"}",
        "genesis--name-of-a-page": b'{"' + b"x" * 5_000 + b'": 1}',
        "genesis--nested-deeply": b"[" * 60_000,
        "manifest--unknown-field-of-a-page": b'{"' + b"7" * 5_000 + b'": 1}',
        "recipe--unknown-field-of-a-page": b'{"' + b"7" * 5_000 + b'": 1}',
        "node.toml--number-of-5000-digits": b"port = " + b"7" * 5_000,
        "node.toml--hexadecimal-number-of-5000-digits": b"port = 0x" + b"f" * 5_000,
        "node.toml--nested-deeply": b"host = " + b"[" * 5_000,
        "http--many-headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1_000 + b"\r\n",
        "http--length-of-5000-digits": _HEAD + b"content-length: " + b"9" * 5_000 + b"\r\n\r\n",
        "http--only-line-ends": b"\r\n" * 50_000,
    }


def main() -> None:
    for name, data in make_seeds().items():
        (CORPUS / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    main()
