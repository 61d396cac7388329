"""Submitting a finished run: check, upload what is missing, sign, send, follow to the verdict.

Nothing here keeps state on disk.  An interrupted upload goes on because a node says which files it
lacks, and an interrupted wait goes on because the submission's id follows from the record, the key
and the network: whoever asks again asks about the same submission.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from milepost import bundle
from milepost.api import Client, Node
from milepost.coverage import Coverage, get_coverage
from milepost.errors import CannotTell, Refused, WrongUsage
from milepost.network import find_network, get_signer
from milepost.observer import Observer
from milepost.refutations import Refuter
from milepost.serving import find_servers, require_servers
from milepost.uploads import Blob, upload
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.encoding import encode
from milepost_consensus.light import Trust
from milepost_consensus.payloads import (
    Submit,
    WorkRefutation,
    compute_submission_id,
    validate_submit,
)
from milepost_consensus.registrations import Registration, validate_use
from milepost_consensus.transactions import make_tx
from milepost_consensus.verdicts import INVALID, VALID, Verdict, qualify_assurance
from milepost_consensus.views import from_view
from milepost_ml.admission import build_submit
from milepost_ml.files import FolderFiles, Manifest, encode_manifest
from milepost_ml.origin import validate_origin
from milepost_ml.record_files import read_recipe

VALID_HEIGHTS: Final = 1_000
"""How many blocks a signed submission stays acceptable."""
POLL_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 600.0


class Delivery(NamedTuple):
    """What came of a submission.  `verdict` is None while the network has not decided."""

    submission: str
    """`sub_` and the 64 hex digits of its id."""
    verdict: Verdict | None
    coverage: Coverage | None
    proof: Path | None
    """The proof file that was written into the run folder."""
    checked: bool
    """Whether the verdict was checked against a trust file, rather than taken from a node."""

    def to_view(self) -> dict[str, Any]:
        verdict = self.verdict
        refuted = verdict.refuted[0] if verdict is not None and verdict.refuted else None
        return {
            "submission": self.submission,
            "verdict": verdict.outcome if verdict is not None else None,
            "reason": verdict.reason if verdict is not None else None,
            "height": verdict.height if verdict is not None else None,
            "interval": refuted.interval if refuted is not None else None,
            "step": refuted.step if refuted is not None else None,
            "assurance": (
                qualify_assurance(verdict.assurance, verdict.tolerance_ppb)
                if verdict is not None
                else None
            ),
            "profile": verdict.profile if verdict is not None else None,
            "eligible": verdict.eligible if verdict is not None else None,
            "verifiers": verdict.verifiers if verdict is not None else None,
            "coverage": self.coverage.to_view() if self.coverage is not None else None,
            "proof": str(self.proof) if self.proof is not None else None,
            "checked_against_trust": self.checked,
        }


def submit(
    run: str | Path,
    *,
    network: str | Path | None = None,
    nodes: Sequence[str] = (),
    key: str | Path | None = None,
    name: str = "",
    unregistered: bool = False,
    few_verifiers: bool = False,
    wait: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    observer: Observer | None = None,
) -> Delivery:
    """Submit a run folder; with `wait`, return once the network decided.

    What was submitted before is not sent again: it is followed, or its verdict returned.

    `name` replaces the run's own name on chain, which makes it another submission; `unregistered`
    leaves out the registration that the run has; `few_verifiers` goes on where fewer than a
    sub-quorum serve the run's device class.

    Raises InvalidRecord (of milepost_ml) for a broken record, Refused with the node's slug,
    Unreachable if no node answers, MachineCannot (slug not-served or few-verifiers) before the
    upload where too few could retrain the run, CannotTell (slug undecided-yet) when the time is
    over first.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise WrongUsage(f"There is no run folder {folder}.", slug="no-such-thing")
    observer = observer or Observer()
    profile = find_network(Path(network) if network is not None else None, tuple(nodes))
    signer = get_signer(profile, Path(key) if key is not None else None)
    trust = bundle.read_trust(profile.trust) if profile.trust is not None else None
    record, manifest = build_submit(folder, unregistered=unregistered)
    if name:
        record = replace(record, name=name)
        validate_submit(record)
    observer.on_checked(record, manifest)
    with Client(profile.nodes, on_failure=observer.on_node_failed) as client:
        network_id = get_network_id(client, trust)
        observer.on_network({m["id"]: m["name"] for m in client.genesis()["members"]})
        sender = _Sender(client, folder, record, manifest, signer, network_id, observer)
        known = sender.find_known()
        if known is None:
            servers = find_servers(client, record, sender=signer.public)
            require_servers(servers, record, few=few_verifiers)
        if known is None and record.registration:
            _validate_registered(client, folder, record, signer)
        if known is None:
            client.attempt(sender.deliver_to)
        else:
            observer.on_submitted(sender.name, url=client.current, again=True)
        sub = sender.name
        decided = known is not None and known["verdict"] is not None
        if not wait and not decided:
            return Delivery(sub, None, None, None, False)
        refuter = Refuter(folder, sender.send)
        return _follow(client, sub, folder, trust, timeout_seconds, observer, refuter)


def get_network_id(client: Client, trust: Trust | None) -> bytes:
    """The network that the nodes belong to; raises WrongUsage unless it is the trusted one."""
    status = client.status()
    try:
        network_id = bytes.fromhex(status["network_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise CannotTell("The node does not say which network it belongs to.") from error
    if trust is not None and network_id != trust.network_id:
        raise WrongUsage(
            f"Node {status.get('node')} speaks network {status.get('network')}"
            f" ({network_id.hex()[:8]}), the trust file is for {trust.network}"
            f" ({trust.network_id.hex()[:8]}). Use the nodes and the trust file of one network.",
            slug="wrong-network",
        )
    return network_id


def get_height(node: Node) -> int:
    """The height of a node's chain."""
    height = node.get("/v1/status").get("height")
    if not isinstance(height, int):
        raise CannotTell("The node does not say how high its chain is.")
    return height


def _validate_registered(
    client: Client, folder: Path, record: Submit, signer: Ed25519Signer
) -> None:
    """Find before the upload what the nodes would refuse after it; raises as they do."""
    registration = from_view(Registration, client.registration(record.registration.hex()))
    validate_use(registration, record, sender=signer.public)
    validate_origin(read_recipe(FolderFiles(folder))[1], record, registration)


class _Sender:
    """One submission on its way to whichever node takes it."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        record: Submit,
        manifest: Manifest,
        signer: Ed25519Signer,
        network_id: bytes,
        observer: Observer,
    ) -> None:
        self._client = client
        self._record = record
        self._signer = signer
        self._network_id = network_id
        self._observer = observer
        self._id = compute_submission_id(signer.public, record, network_id)
        self._blobs: dict[bytes, Blob] = {
            bytes.fromhex(file.digest): (folder / file.name, file.size) for file in manifest.files
        }
        listing = encode_manifest(manifest)
        self._blobs[record.manifest] = (listing, len(listing))

    @property
    def name(self) -> str:
        return f"sub_{self._id.hex()}"

    def find_known(self) -> dict[str, Any] | None:
        """The submission as the network knows it from an earlier attempt, or None."""
        return get_submission_view(self._client, self.name)

    def deliver_to(self, node: Node) -> None:
        """Bring the submission to one node; the other nodes fetch the record from there."""
        missing = node.missing(list(self._blobs))
        chosen = {digest: blob for digest, blob in self._blobs.items() if digest in missing}
        begun = {
            digest: missing[digest]
            for digest, (_, size) in chosen.items()
            if 0 < missing[digest] <= size
        }
        self._observer.on_upload(
            files=len(self._blobs),
            missing=len(chosen),
            begun=len(begun),
            size_bytes=sum(size for _, size in chosen.values()) - sum(begun.values()),
        )
        upload(node, chosen, self._observer.on_bytes, begun=begun)
        self._observer.on_uploaded()
        tx = make_tx(
            self._record,
            signer=self._signer,
            valid_until=get_height(node) + VALID_HEIGHTS,
            network=self._network_id,
        )
        try:
            node.send_transaction(encode(tx))
        except Refused as error:
            # A node that failed us a moment ago may have passed the submission on.
            if error.slug != "duplicate" or self.find_known() is None:
                raise
        self._observer.on_submitted(self.name, url=node.url, again=False)

    def send(self, payload: WorkRefutation) -> None:
        """Sign a statement about the submission and bring it to the next node that answers."""

        def hand_in(node: Node) -> None:
            tx = make_tx(
                payload,
                signer=self._signer,
                valid_until=get_height(node) + VALID_HEIGHTS,
                network=self._network_id,
            )
            # A verifier may have said it before, or the time for it may be over: both are settled.
            with suppress(Refused):
                node.send_transaction(encode(tx))

        self._client.attempt(hand_in)


def _follow(
    client: Client,
    sub: str,
    folder: Path,
    trust: Trust | None,
    timeout_seconds: float,
    observer: Observer,
    refuter: Refuter,
) -> Delivery:
    deadline = time.monotonic() + timeout_seconds
    last: dict[str, Any] | None = None
    while True:
        view = get_submission_view(client, sub)
        if view is not None and view != last:
            observer.on_state(view)
            last = view
            for verifier in refuter.look(view):
                observer.on_lazy(verifier.hex())
        if view is not None and view["verdict"] is not None:
            delivery = _fetch_verdict(client, sub, folder, trust)
            if delivery is not None:
                return delivery
        if time.monotonic() > deadline:
            phase = "not anchored yet" if last is None else str(last["submission"]["phase"])
            raise CannotTell(
                f"{sub[:12]} is undecided after {timeout_seconds:.0f} s ({phase}). It goes on"
                " without you: run the same command again, or milepost status.",
                slug="undecided-yet",
            )
        time.sleep(POLL_SECONDS)


def get_submission_view(client: Client, sub: str) -> dict[str, Any] | None:
    """The submission as the next node sees it, or None where it is not on chain there (yet)."""
    try:
        return client.submission(sub)
    except Refused as error:
        if error.status == 404:
            return None
        raise


def _fetch_verdict(client: Client, sub: str, folder: Path, trust: Trust | None) -> Delivery | None:
    """The decided submission from its proof, or None if this node cannot prove it yet."""
    try:
        answer = client.proof(sub)
    except Refused as error:
        if error.status == 404:
            return None
        raise
    proof = bundle.parse_proof(answer, where="the node's proof")
    if trust is not None:
        bundle.validate_proof(proof, trust)
    if f"sub_{proof.bundle.submission.id.hex()}" != sub:
        raise CannotTell("The node sent the proof of another submission.", slug="bad-proof")
    path = folder / bundle.PROOF_FILE
    bundle.write_proof(path, proof, model=folder / "model.safetensors")
    coverage = get_coverage(proof.bundle.verdict, quorum=len(proof.bundle.submission.quorum))
    return Delivery(sub, proof.bundle.verdict, coverage, path, trust is not None)


def is_yes(delivery: Delivery) -> bool | None:
    """True for VALID, False for INVALID, None for neither."""
    outcome = delivery.verdict.outcome if delivery.verdict is not None else None
    return {VALID: True, INVALID: False}.get(outcome or "")
