"""Brings the files of decided submissions into the archive, and makes room for others here.

A file leaves this machine only after the archive has all of it and no open submission needs it;
manifests stay, because they say what belongs together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from milepost_consensus.state import LedgerState
from milepost_consensus.verdicts import UNDECIDED
from milepost_node.archive import Archive
from milepost_node.blobs import BlobStore
from milepost_node.errors import ArchiveError
from milepost_node.records import Records

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 30.0
FULL_SHARE: Final = 0.75
"""From where on room is made; half of what may be stored then stays free for records to come."""
LEFT_SHARE: Final = 0.5


class Archiving:
    """What one node does for its archive."""

    def __init__(
        self,
        archive: Archive,
        *,
        blobs: BlobStore,
        records: Records,
        get_state: Callable[[], LedgerState],
        get_needed: Callable[[], set[bytes]],
    ) -> None:
        """`get_needed` gives the files that must stay on this machine."""
        self._archive, self._blobs, self._records = archive, blobs, records
        self._get_state, self._get_needed = get_state, get_needed
        self._brought: set[bytes] = set()
        """Submissions of which everything is in the archive."""

    async def run(self) -> None:
        """Serve for ever, whatever becomes of the object store."""
        known = False
        while True:
            try:
                if not known:
                    await self._archive.look()
                    logger.info("archive found", extra={"files": len(self._archive)})
                    known = True
                await self.bring()
            except ArchiveError as error:
                logger.warning("archive not reached", extra={"reason": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.make_room()
            await asyncio.sleep(LOOK_SECONDS)

    async def bring(self) -> int:
        """Store what was decided and is not there yet; how many files.  Raises ArchiveError."""
        state, count = self._get_state(), 0
        for submission_id, verdict in state.verdicts.items():
            if submission_id in self._brought or verdict.outcome == UNDECIDED:
                continue
            for digest in self._records.get_files(state.submissions[submission_id].submit.manifest):
                if self._blobs.has(digest) and not self._archive.has(digest):
                    await self._archive.put(digest, self._blobs.get_path(digest))
                    count += 1
            self._brought.add(submission_id)
        if count:
            logger.info("files archived", extra={"files": count})
        return count

    def make_room(self) -> int:
        """Delete what the archive has and nothing here needs, where little room is left."""
        limit = self._blobs.limit_bytes
        if self._blobs.used_bytes <= FULL_SHARE * limit:
            return 0
        needed = self._get_needed()
        count = self._blobs.evict(
            lambda digest: self._archive.has(digest) and digest not in needed,
            down_to_bytes=int(LEFT_SHARE * limit),
        )
        logger.info("files left to the archive", extra={"files": count})
        return count
