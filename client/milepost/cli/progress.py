"""What a submission tells while it goes on: steps, intervals, and how far the upload is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from milepost.cli import output, submissions
from milepost.cli.upload_progress import UploadProgress
from milepost.observer import Observer

if TYPE_CHECKING:
    from milepost_consensus.payloads import Submit
    from milepost_ml.files import Manifest


class SubmitPrinter(Observer):
    """Tells each step of a submission; `intervals` tells each interval too."""

    def __init__(self, *, intervals: bool = True) -> None:
        self._intervals = intervals
        self._upload = UploadProgress()
        self._names: Mapping[str, str] = {}
        self._phase = ""
        self._shown: set[int] = set()

    def on_network(self, names: Mapping[str, str]) -> None:
        self._names = names

    def on_node_failed(self, url: str, reason: str) -> None:
        self._upload.stop()
        output.tell(f"No answer    {url}: {reason}; asking the next node")

    def on_checked(self, submit: Submit, manifest: Manifest) -> None:
        output.tell(
            f"Checked      {manifest.intervals} intervals, {submit.records:,} records,"
            f" {manifest.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files"
        )

    def on_upload(self, *, files: int, missing: int, begun: int, size_bytes: int) -> None:
        there = files - missing
        said = [f"{there} were there already"] if there else []
        said += [f"{begun} in part"] if begun else []
        note = f" ({', '.join(said)})" if said else ""
        output.tell(f"Uploading    {size_bytes / 1e6:.1f} MB in {missing} files{note}")
        self._upload.start(size_bytes)

    def on_bytes(self, count: int) -> None:
        self._upload.advance(count)

    def on_uploaded(self) -> None:
        self._upload.stop()
        output.tell("Uploaded     the node checks the record")

    def on_submitted(self, submission: str, *, url: str, again: bool) -> None:
        how = "is known already; following it at" if again else "taken by"
        output.tell(f"Submitted    {submission[:12]} {how} {url}")

    def on_lazy(self, verifier: str) -> None:
        name = self._names.get(verifier, verifier[:8])
        output.tell(f"Refuted      {name} vouched for intervals that it did not retrain")

    def on_state(self, view: dict[str, Any]) -> None:
        submission = view["submission"]
        if submission["phase"] != self._phase:
            self._phase = submission["phase"]
            meaning = submissions.PHASES.get(self._phase, "")
            output.tell(f"{self._phase.capitalize():<12} {meaning}")
            if self._phase == "retracing" and self._intervals:
                output.tell(submissions.INTERVAL_HEADING, style="dim")
        if self._intervals:
            self._tell_intervals(submission)

    def _tell_intervals(self, submission: dict[str, Any]) -> None:
        for interval, duties in submissions.group_duties(submission).items():
            if interval not in self._shown and all(duty["answer"] for duty in duties):
                self._shown.add(interval)
                output.tell(submissions.format_interval(submission, interval, duties, self._names))
