"""What can go wrong in a node that is not somebody's invalid input.

Input that breaks a rule raises an `InvalidInput` of the consensus package, here mostly
`InvalidRequest`.  The classes of this module mean that *the world failed*: disk, peer, worker.
"""

from __future__ import annotations

from milepost_consensus.errors import InvalidInput


class InvalidRequest(InvalidInput):
    """A request that this node refuses.

    `slug` names the explanation, `members` are further fields of the answer.
    """

    slug = "bad-request"

    def __init__(self, message: str, *, slug: str | None = None, **members: object) -> None:
        super().__init__(message, slug=slug)
        self.members = members


class BrokenOff(InvalidRequest):
    """A request whose body ended before it was complete; what came of it may be true."""


class NodeError(Exception):
    """The world around the node failed.  `slug` names the explanation."""

    slug = "node-failed"

    def __init__(self, message: str, *, slug: str | None = None) -> None:
        super().__init__(message)
        if slug is not None:
            self.slug = slug


class SettingsError(NodeError):
    """The home folder of a node does not hold what a node can start from."""

    slug = "bad-config"


class StoreError(NodeError):
    """The chain database cannot be opened, read or written, or holds what cannot be."""

    slug = "store-failed"


class PeerError(NodeError):
    """A peer did not answer, or answered something that is not the protocol."""

    slug = "peer-failed"


class ArchiveError(NodeError):
    """The object store did not answer, or does not have a file that it had."""

    slug = "archive-failed"


class KnownAnswerFailed(NodeError):
    """This machine does not compute as a device class does that it has vouched for."""

    slug = "known-answer-failed"

    def __init__(self, message: str, *, device_class: str) -> None:
        super().__init__(message)
        self.device_class = device_class


class WorkerError(NodeError):
    """The verifier process died or took too long over a job."""

    slug = "worker-failed"
