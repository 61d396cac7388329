"""What this node knows from retracing and tells nobody: digests of gradients, by interval.

With them it finds out, once all answers stand, who attested without retraining.  They are small
files beside the blobs, of submissions without a verdict, and are never served.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Submit, get_stride_place

GRADIENT_BYTES: Final = 32


def get_gradients_folder(blobs: Path) -> Path:
    """Where they lie, given the folder of a node's blobs."""
    return blobs.with_name(f"{blobs.name}-gradients")


class GradientStore:
    """One folder per submission, named by its content, and in it one file per interval."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _get_folder(self, submit: Submit) -> Path:
        return self._folder / hashlib.sha256(encode(submit)).hexdigest()

    def write(self, submit: Submit, interval: int, gradients: Sequence[bytes]) -> None:
        """Keep the digests of all strides of an interval; whole, or not at all."""
        folder = self._get_folder(submit)
        folder.mkdir(parents=True, exist_ok=True)
        incoming = folder / f"{interval}.incoming"
        incoming.write_bytes(b"".join(gradients))
        os.replace(incoming, folder / str(interval))

    def read(self, submit: Submit, interval: int, step: int) -> bytes:
        """The digest of the gradient with which the stride of a step ends.

        Empty where this node has not retraced the interval.
        """
        place = get_stride_place(submit, interval, step)
        try:
            with (self._get_folder(submit) / str(interval)).open("rb") as file:
                file.seek(place * GRADIENT_BYTES)
                return file.read(GRADIENT_BYTES)
        except FileNotFoundError:
            return b""

    def keep_only(self, submits: Iterable[Submit]) -> None:
        """Forget all submissions but these."""
        wanted = {self._get_folder(submit).name for submit in submits}
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
