"""The most expensive requests that a stranger can make of a node, as raw bytes."""

from __future__ import annotations

import gzip
import json

import msgspec

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Hold
from milepost_consensus.transactions import Tx, make_tx
from milepost_consensus.votes import PREVOTE, Proposal, Vote
from milepost_node.envelopes import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES
from milepost_node.node import Node
from milepost_node.routes.blobs import MAX_QUESTION_DIGESTS
from tests.fuzz.stage import make_request
from tests.support.ledger import Ledger, make_hash, make_record, make_signer
from tests.support.nodes import make_named_genesis

MESSAGES = "/v1/peer/messages"
TRANSACTIONS = "/v1/transactions"
SUBMIT_INTERVALS = 2_048


def _make_proposal(node: Node, txs: tuple[Tx, ...]) -> bytes:
    """A proposal that nobody signed, for the next height, in the name of whose turn it is."""
    state = node.runtime.state
    ledger = Ledger(make_named_genesis(4))
    header = msgspec.structs.replace(ledger.apply().header, height=state.height + 1)
    bare = Proposal(state.height + 1, 0, 0, Block(header, ()), (), header.proposer, bytes(64))
    return encode(msgspec.structs.replace(bare, block=Block(header, txs)))


def _make_batches(node: Node) -> dict[str, bytes]:
    state, network = node.runtime.state, node.network
    ids = [member.id for member in state.validators]
    count = MAX_BATCH_BYTES // 4 - 2
    array = b"\xdd" + count.to_bytes(4, "big")
    votes = [
        encode(Vote(state.height + 1, 0, PREVOTE, make_hash(n), ids[n % len(ids)], bytes(64)))
        for n in range(MAX_BATCH_MESSAGES)
    ]
    stranger = make_signer("stranger")
    holds = [
        encode(make_tx(Hold(make_hash(n)), signer=signer, valid_until=100, network=network))
        for n in range(MAX_BATCH_MESSAGES // 2)
        for signer in (stranger, make_signer("node-1"))
    ]
    tx = Tx("hold", stranger.public, 9, bytes(8_000), bytes(64))
    tiny = (Tx("", b"", 0, b"", b""),)
    large = make_record("large", intervals=SUBMIT_INTERVALS, steps_per_interval=1).submit
    submits = [
        make_tx(large, signer=make_signer("submitter"), valid_until=height, network=network)
        for height in range(state.height + 1, state.height + 21)
    ]
    pack = msgspec.msgpack.encode
    return {
        "24 MiB of empty messages": array + b"\x92\xa0\xc4\x00" * count,
        "4,096 votes that nobody signed": pack([("vote", vote) for vote in votes]),
        "4,096 signed holds of nothing": pack([("tx", hold) for hold in holds]),
        "20 submissions of 2,048 intervals": pack([("tx", encode(each)) for each in submits]),
        "three proposals of 8 MB": pack([("proposal", _make_proposal(node, (tx,) * 1_000))] * 3),
        "900,000 empty transactions": pack([("proposal", _make_proposal(node, tiny * 900_000))]),
        "deep nesting": b"\x91" * (MAX_BATCH_BYTES - 1),
    }  # fmt: skip


def make_hostile_requests(node: Node) -> dict[str, bytes]:
    """By what they are called."""
    questions = json.dumps({"digests": [make_hash(n).hex() for n in range(MAX_QUESTION_DIGESTS)]})
    large = make_record("a", intervals=SUBMIT_INTERVALS, steps_per_interval=1).submit
    tx = make_tx(large, signer=make_signer("submitter"), valid_until=300, network=node.network)
    posts = {
        **{name: (MESSAGES, body) for name, body in _make_batches(node).items()},
        "1 MiB of rubbish as a transaction": (TRANSACTIONS, b"\x95" + bytes(2**20 - 1)),
        "a submission without files": (TRANSACTIONS, encode(tx)),
        "8,192 files asked for": ("/v1/blobs/missing", questions.encode()),
        "1 MiB of nested JSON": ("/v1/blobs/missing", b"[" * 2**20),
        "a compressed gigabyte": ("/v1/blobs/missing", gzip.compress(bytes(2**28), 1)[: 2**20]),
    }
    digest = make_hash("no file").hex()
    gets = {
        "100 submissions": "/v1/submissions?limit=100",
        "100 blocks": "/v1/blocks?limit=100",
        "the first block": "/v1/blocks/1",
        "a page of blocks": "/v1/peer/blocks?from=1",
        "the members": "/v1/genesis",
        "the description": "/openapi.json",
        "a number of 60,000 digits": "/v1/blocks/" + "9" * 60_000,
        "a path that leads out": "/v1/blobs/..%2f..%2f..%2fnode.key",
        "60,000 parameters": "/v1/blocks?" + "&".join("limit=1" for _ in range(7_000)),
    }
    ranges = "range: bytes=" + ",".join(f"{n}-{n}" for n in range(4_000))
    compressed = ["content-encoding: gzip"]
    return {
        **{
            name: make_request("POST", path, body, compressed if "compressed" in name else ())
            for name, (path, body) in posts.items()
        },
        **{name: make_request("GET", path) for name, path in gets.items()},
        "4,000 ranges": make_request("GET", f"/v1/blobs/{digest}", headers=[ranges]),
        "1,000 headers": make_request("GET", "/", headers=[f"x{n}: y" for n in range(1_000)]),
    }
