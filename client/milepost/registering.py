"""Registering a run before its first step: send what is fixed, wait for the network's seed.

Nothing is kept on disk.  Whoever asks again for the same recipe and data gets the registration
that is there already, unless a submission has used it; so an interrupted script goes on with the
seed it had, and does not count as another attempt.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from milepost import bundle
from milepost.api import Client, Node
from milepost.delivery import VALID_HEIGHTS, get_height, get_network_id
from milepost.errors import CannotTell
from milepost.network import Profile, find_network, get_signer
from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Register
from milepost_consensus.transactions import make_tx
from milepost_consensus.verdicts import VALID
from milepost_ml.registration import Registered, Request, Say

POLL_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 600.0


def find_profile_of(network: str | Path | bool) -> Profile:
    """A network by the URL of a node, by its folder or milepost.toml, or (True) the usual one."""
    if isinstance(network, str) and "://" in network:
        return find_network(None, (network,))
    return find_network(None if isinstance(network, bool) else Path(network))


class Registrar:
    """Registers runs with one network; the recorder calls it before the first step."""

    def __init__(
        self,
        network: str | Path | bool = True,
        *,
        key: str | Path | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Raises WrongUsage or NotAllowed for a network or key that cannot be used."""
        self._profile = find_profile_of(network)
        self._signer = get_signer(self._profile, Path(key) if key is not None else None)
        self._timeout_seconds = timeout_seconds

    def __call__(self, request: Request, say: Say) -> Registered:
        """The registration of a request with its seed, an earlier one if that is still free.

        Raises Refused with the node's slug, Unreachable, CannotTell (slug no-seed) if the network
        gives no seed in time.
        """
        trust = bundle.read_trust(self._profile.trust) if self._profile.trust is not None else None
        deadline = time.monotonic() + self._timeout_seconds
        sent: Register | None = None
        known = ""
        with Client(self._profile.nodes) as client:
            network_id = get_network_id(client, trust)
            while True:
                answer = client.registrations(self._signer.public.hex(), request.recipe.hex())
                view = self._choose(client, request, answer["registrations"])
                # Another registration with the same key may have taken the number.
                if view is None and (sent is None or answer["made"] > sent.attempt):
                    sent = Register(*request, attempt=answer["made"])
                    self._send(client, sent, network_id)
                    say(f"registering the run at {client.current}")
                elif view is not None and view["id"] != known:
                    known = view["id"]
                    _tell(view, again=sent is None, say=say)
                if view is not None and view["seed"]:
                    say(f"the network's seed is {view['seed'][:16]}")
                    return _read(view)
                if time.monotonic() > deadline:
                    raise CannotTell(
                        f"The network gave no seed within {self._timeout_seconds:.0f} s. Run the"
                        " script again: it goes on with the same registration.",
                        slug="no-seed",
                    )
                time.sleep(POLL_SECONDS)

    def _choose(
        self, client: Client, request: Request, views: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The newest registration of the same content that no submission has used up."""
        wanted = (request.dataset_root.hex(), request.records, request.parent.hex())
        for view in views:
            said = view["register"]
            same = (said["dataset_root"], said["records"], said["parent"]) == wanted
            if same and _is_free(client, view["submission"]):
                return view
        return None

    def _send(self, client: Client, register: Register, network_id: bytes) -> None:
        def send(node: Node) -> None:
            tx = make_tx(
                register,
                signer=self._signer,
                valid_until=get_height(node) + VALID_HEIGHTS,
                network=network_id,
            )
            node.send_transaction(encode(tx))

        client.attempt(send)


def _is_free(client: Client, submission: str) -> bool:
    """Whether the submission that used a registration leaves it for another one."""
    if not submission:
        return True
    verdict = client.submission(submission)["verdict"]
    return verdict is not None and verdict["outcome"] != VALID


def _tell(view: dict[str, Any], *, again: bool, say: Say) -> None:
    number = view["register"]["attempt"] + 1
    was = "is registered already" if again else "is registered"
    say(
        f"the run {was}: {view['id'][:8]} in block {view['height']}, number {number} of this"
        " submitter; waiting for the network's seed"
    )


def _read(view: dict[str, Any]) -> Registered:
    return Registered(
        id=bytes.fromhex(view["id"]),
        seed=bytes.fromhex(view["seed"]),
        number=view["register"]["attempt"] + 1,
        height=view["height"],
    )
