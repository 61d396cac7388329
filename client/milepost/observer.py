"""What a caller of `submit` may listen to while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost_consensus.payloads import Submit
    from milepost_ml.files import Manifest


class Observer:
    """Hears how a submission goes.  Every method may be overridden; none needs to be."""

    def on_network(self, names: Mapping[str, str]) -> None:
        """The network's members: names by id in hex."""

    def on_checked(self, submit: Submit, manifest: Manifest) -> None:
        """The record is complete and fits together."""

    def on_upload(self, *, files: int, missing: int, begun: int, size_bytes: int) -> None:
        """The node lacks `missing` of `files` files, `begun` of them in part; `size_bytes` in all.

        Should a beginning be lost meanwhile, more is sent.
        """

    def on_bytes(self, count: int) -> None:
        """That many more bytes are on their way.  Called from other threads, one at a time."""

    def on_uploaded(self) -> None:
        """All files are there; the node now checks the record itself."""

    def on_submitted(self, submission: str, *, url: str, again: bool) -> None:
        """A node took the submission; `again`: the network knew it already."""

    def on_state(self, view: dict[str, Any]) -> None:
        """The submission as a node sees it, whenever it changed."""

    def on_lazy(self, verifier: str) -> None:
        """A verifier, by id in hex, did not retrain what it vouches for, and that was shown."""

    def on_node_failed(self, url: str, reason: str) -> None:
        """A node gave no usable answer; the next one is asked."""
