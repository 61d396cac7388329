"""A validator that answers those who catch up with anything but the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import get_precommits
from milepost_consensus.encoding import decode, encode
from milepost_consensus.votes import sign_vote
from milepost_node.peers import HEIGHT_HEADER
from tests.faults.history import Chain
from tests.faults.network import PORT, FaultyNetwork
from tests.support.ledger import make_signer

BOAST: Final = 10**9
"""The height it says it has."""
TRICKLE_BYTES: Final = 10_000_000
TRICKLE_SECONDS: Final = 0.2


class Liar:
    """Serves at the address of a machine whose node does not run.  Use as a context manager."""

    def __init__(self, network: FaultyNetwork, index: int, chain: Chain) -> None:
        self.told = 0
        """Questions for blocks that it answered."""
        self._network = network.id
        self._validators = network.genesis.members
        self._signer = make_signer(f"node-{index}")
        self._chain = chain
        self._ended = False
        self._answers: tuple[Callable[[int], bytes], ...] = (
            self._forge_block,
            self._forge_certificate,
            self._sign_alone,
            self._skip_ahead,
            lambda first: b"rubbish",
            lambda first: b"",
        )
        liar, turns = self, count()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                first = int(parse_qs(urlsplit(self.path).query).get("from", ["1"])[0])
                turn = next(turns)
                liar.told += 1
                trickles = turn % 2 == 0
                body = b"" if trickles else liar._answers[turn // 2 % len(liar._answers)](first)
                self.send_response(200)
                self.send_header(HEIGHT_HEADER, str(BOAST))
                self.send_header("content-length", str(TRICKLE_BYTES if trickles else len(body)))
                self.end_headers()
                self.wfile.write(body)
                while trickles and not liar._ended:
                    self.wfile.write(b"\x90")
                    time.sleep(TRICKLE_SECONDS)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(204)
                self.end_headers()

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        address = (network.lab.addresses[index], PORT)
        self._server = network.lab.run_at(index, lambda: ThreadingHTTPServer(address, Handler))
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Liar:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _get(self, height: int) -> tuple[Block, Certificate]:
        data, certificate = self._chain[min(height, len(self._chain)) - 1]
        return decode(Block, data), decode(Certificate, certificate)

    def _forge_block(self, first: int) -> bytes:
        """Another block under the true certificate."""
        block, certificate = self._get(first)
        return _encode_page(_postpone(block), certificate)

    def _forge_certificate(self, first: int) -> bytes:
        """Another block, named by a certificate whose signatures are all its own."""
        block, certificate = self._get(first)
        forged = _postpone(block)
        block_id = compute_block_id(forged.header, self._network)
        votes = get_precommits(certificate, sorted(self._validators, key=lambda m: m.id))
        signatures = tuple(
            sign_vote(
                msgspec.structs.replace(vote, block_id=block_id), self._signer, self._network
            ).signature
            for vote in votes
        )
        return _encode_page(
            forged,
            msgspec.structs.replace(certificate, block_id=block_id, signatures=signatures),
        )

    def _sign_alone(self, first: int) -> bytes:
        """The true block with too few of its signatures."""
        block, certificate = self._get(first)
        few = msgspec.structs.replace(
            certificate, signers=certificate.signers[:1], signatures=certificate.signatures[:1]
        )
        return _encode_page(block, few)

    def _skip_ahead(self, first: int) -> bytes:
        """A true block that is not the next one."""
        return _encode_page(*self._get(first + 2))


def _postpone(block: Block) -> Block:
    header = msgspec.structs.replace(block.header, time_ms=block.header.time_ms + 1)
    return msgspec.structs.replace(block, header=header)


def _encode_page(block: Block, certificate: Certificate) -> bytes:
    return msgspec.msgpack.encode([(encode(block), encode(certificate))])
