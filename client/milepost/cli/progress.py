"""What a submission tells while it goes on: steps, intervals, and a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TransferSpeedColumn

from milepost.cli import output, submissions
from milepost.observer import Observer

if TYPE_CHECKING:
    from milepost_consensus.payloads import Submit
    from milepost_ml.files import Manifest


class UploadBar:
    """A bar on standard error that disappears when it is full."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, size_bytes: int) -> None:
        self.stop()
        if not size_bytes or not sys.stderr.isatty():
            return
        self._progress = Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=size_bytes)

    def advance(self, count: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class SubmitPrinter(Observer):
    """Tells each step of a submission; `intervals` tells each interval too."""

    def __init__(self, *, intervals: bool = True) -> None:
        self._intervals = intervals
        self._bar = UploadBar()
        self._names: Mapping[str, str] = {}
        self._phase = ""
        self._shown: set[int] = set()

    def on_network(self, names: Mapping[str, str]) -> None:
        self._names = names

    def on_node_failed(self, url: str, reason: str) -> None:
        self._bar.stop()
        output.tell(f"No answer    {url}: {reason}; asking the next node")

    def on_checked(self, submit: Submit, manifest: Manifest) -> None:
        output.tell(
            f"Checked      {manifest.intervals} intervals, {submit.records:,} records,"
            f" {manifest.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files"
        )

    def on_upload(self, *, files: int, missing: int, size_bytes: int) -> None:
        there = files - missing
        note = f" ({there} were there already)" if there else ""
        output.tell(f"Uploading    {size_bytes / 1e6:.1f} MB in {missing} files{note}")
        self._bar.start(size_bytes)

    def on_bytes(self, count: int) -> None:
        self._bar.advance(count)

    def on_uploaded(self) -> None:
        self._bar.stop()
        output.tell("Uploaded     the node checks the record")

    def on_submitted(self, submission: str, *, url: str, again: bool) -> None:
        how = "is known already; following it at" if again else "taken by"
        output.tell(f"Submitted    {submission[:12]} {how} {url}")

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
