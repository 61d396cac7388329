"""A worker process that answers, or misbehaves in a chosen way: `python odd_worker.py MODE FILE`.

It speaks the real protocol but learns nothing.  MODE `once-...` misbehaves only if FILE does not
exist yet, and makes it: the worker after it works.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from milepost_node.jobs import (
    Answer,
    DeviceClasses,
    Failed,
    GetDeviceClasses,
    Job,
    Refused,
    Unable,
    Valid,
    encode_frame,
    read_job,
)
from milepost_node.worker import take_pipes


def answer(job: Job) -> Answer:
    if isinstance(job, GetDeviceClasses):
        return DeviceClasses((f"pid {os.getpid()}",), "")
    return Valid()


def misbehave(mode: str) -> Answer | bytes:
    match mode:
        case "leave":
            return Valid()
        case "die":
            os._exit(3)
        case "hang":
            time.sleep(3600)
        case "garble":
            return b"\xff\xff\xff\xffrubbish"
        case "half":
            return b"\x00\x00\x00\x10half"
        case "refuse":
            return Refused("not-finite", "Milepost 3 holds NaN")
        case "unable":
            return Unable("exact/1", "the known answer is 1, here 2")
        case "fail":
            return Failed("RuntimeError: no memory")
        case "chatter":
            print("a library prints", flush=True)
            os.write(1, b"to standard output\n")
            os.write(2, b"x" * 100_000 + b"\n")
            return Valid()
    raise AssertionError(mode)


def main() -> None:
    mode, file = sys.argv[1], Path(sys.argv[2])
    if mode.startswith("once-"):
        mode = "" if file.exists() else mode.removeprefix("once-")
        file.touch()
    source, sink = take_pipes()
    while (job := read_job(source)) is not None:
        said = misbehave(mode) if mode else answer(job)
        sink.write(said if isinstance(said, bytes) else encode_frame(said))
        sink.flush()
        if isinstance(said, bytes) or mode == "leave":
            os._exit(0)


if __name__ == "__main__":
    main()
