"""The files of submissions: which there are, which are missing, and getting them from peers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.errors import InvalidInput
from milepost_consensus.payloads import Submit
from milepost_consensus.state import LedgerState
from milepost_consensus.verdicts import UNDECIDED
from milepost_ml.errors import MilepostMLError
from milepost_ml.files import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from milepost_node.archive import Archive
from milepost_node.blobs import BlobStore
from milepost_node.errors import ArchiveError, InvalidRequest, PeerError
from milepost_node.peers import Peer, Peers

logger = logging.getLogger(__name__)

CACHED_MANIFESTS: Final = 64
STATE_SLACK_BYTES: Final = 64 * 1024
"""A state between two snapshots is as large as these, but for its header."""


class Records:
    """The records in one blob folder."""

    def __init__(
        self, blobs: BlobStore, peers: Peers, *, blob_bytes: int, archive: Archive | None = None
    ) -> None:
        self._blobs = blobs
        self._archive = archive
        self._peers = peers
        self._blob_bytes = blob_bytes
        self._manifests: dict[bytes, Manifest] = {}

    def read_manifest(self, digest: bytes) -> Manifest:
        """The manifest in a blob; raises InvalidRequest (not-found) or InvalidRecord."""
        manifest = self._manifests.get(digest)
        if manifest is None:
            data = self._blobs.read(digest, limit_bytes=MAX_MANIFEST_BYTES)
            manifest = decode_manifest(data)
            if len(self._manifests) >= CACHED_MANIFESTS:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[digest] = manifest
        return manifest

    def get_files(self, manifest: bytes) -> list[bytes]:
        """The manifest's digest and those of the files it names, as far as that can be read."""
        try:
            files = self.read_manifest(manifest).files
        except (InvalidInput, MilepostMLError):
            return [manifest]
        return [manifest, *(bytes.fromhex(file.digest) for file in files)]

    async def recall(self, manifest: bytes) -> None:
        """Get those files of a record from the archive that it has and are not here.

        Raises InvalidRecord for an unusable manifest.
        """
        if not self._blobs.has(manifest) and not await self._recall(manifest, MAX_MANIFEST_BYTES):
            return
        for file in self.read_manifest(manifest).files:
            digest = bytes.fromhex(file.digest)
            if not self._blobs.has(digest):
                await self._recall(digest, file.size)

    def get_missing(self, manifest: bytes) -> list[bytes]:
        """Which files of a record are not here; raises InvalidRecord for an unusable manifest."""
        if not self._blobs.has(manifest):
            return [manifest]
        files = self.read_manifest(manifest).files
        return self._blobs.get_missing(dict.fromkeys(bytes.fromhex(file.digest) for file in files))

    def get_referenced(self, state: LedgerState, submits: Iterable[Submit]) -> set[bytes]:
        """All blobs that submissions on the chain, or those in `submits`, need.

        Records that could not be judged are let go of.
        """
        undecided = {key for key, value in state.verdicts.items() if value.outcome == UNDECIDED}
        wanted = [each.submit for key, each in state.submissions.items() if key not in undecided]
        return self.get_needed(state, (*wanted, *submits))

    def get_needed(self, state: LedgerState, submits: Iterable[Submit]) -> set[bytes]:
        """All blobs that these submissions need, and what is being recomputed at present."""
        needed = {digest for submit in submits for digest in self.get_files(submit.manifest)}
        for submission in state.open_submissions:
            needed.update(accusation.pre_state for accusation in submission.accusations)
        return needed

    async def fetch_record(self, submit: Submit, *, holders: Sequence[bytes]) -> None:
        """Get all files of a record that are not here.

        Raises PeerError (record-unavailable) if no peer gives them, InvalidRecord for an unusable
        manifest, InvalidRequest (store-full, too-large) if they do not fit here.
        """
        if not self._blobs.has(submit.manifest):
            await self._fetch_any(submit.manifest, MAX_MANIFEST_BYTES, holders)
        source: bytes = b""
        for file in self.read_manifest(submit.manifest).files:
            if file.size > self._blob_bytes:
                raise InvalidRequest(
                    f"{file.name} has {file.size} bytes, this node takes {self._blob_bytes}",
                    slug="too-large",
                )
            digest = bytes.fromhex(file.digest)
            if not self._blobs.has(digest) and not await self._recall(digest, file.size):
                # Whoever had the last file probably has this one.
                first = [source] if source else holders
                source = await self._fetch_any(digest, file.size, first)

    async def fetch_state(
        self, submit: Submit, digest: bytes, *, accusers: Sequence[bytes]
    ) -> bytes:
        """Get the state before an accused step; returns its digest, or b"" if nobody gives it.

        Without it the step is recomputed from the interval's snapshot, which takes longer.
        """
        if digest == ZERO_DIGEST or self._blobs.has(digest):
            return b"" if digest == ZERO_DIGEST else digest
        sizes = [
            file.size
            for file in self.read_manifest(submit.manifest).files
            if file.name.startswith("mileposts/")
        ]
        try:
            # What no step changes is in the first snapshot alone, and in a state before a step.
            limit = sizes[0] + max(sizes) + STATE_SLACK_BYTES
            await self._fetch_any(digest, limit, accusers)
        except PeerError:
            return b""
        return digest

    async def _recall(self, digest: bytes, limit_bytes: int) -> bool:
        """Get a file from the archive; whether that gave it."""
        if self._archive is None or not self._archive.has(digest):
            return False
        try:
            found = await self._archive.open(digest)
            await self._blobs.write(digest, found.pieces, limit_bytes=limit_bytes)
        except (ArchiveError, InvalidRequest) as error:
            if isinstance(error, InvalidRequest) and error.slug == "store-full":
                raise
            logger.warning(
                "file not recalled from the archive",
                extra={"blob": digest, "slug": error.slug, "reason": str(error)},
            )
            return False
        return True

    async def _fetch_any(self, digest: bytes, limit_bytes: int, first: Sequence[bytes]) -> bytes:
        """Get one blob from whichever peer has it; returns that peer's id."""
        for peer in self._peers.get_preferred(first):
            if await self._fetch_from(peer, digest, limit_bytes):
                return peer.id
        raise PeerError(
            f"no peer has file {digest.hex()[:16]} of the record", slug="record-unavailable"
        )

    async def _fetch_from(self, peer: Peer, digest: bytes, limit_bytes: int) -> bool:
        try:
            path = f"/v1/blobs/{digest.hex()}"
            async with peer.stream(path, limit_bytes=limit_bytes) as response:
                await self._blobs.write(digest, response.aiter_raw(), limit_bytes=limit_bytes)
        except PeerError as error:
            logger.debug("file not fetched", extra={"peer": peer.name, "reason": str(error)})
            return False
        except InvalidRequest as error:
            if error.slug == "store-full":
                raise
            logger.warning("peer served a wrong file", extra={"peer": peer.name, "blob": digest})
            return False
        return True
