"""What the node and its worker process say to each other over two pipes.

Each frame is a 4-byte big-endian length and that many bytes of MessagePack: a job in one
direction, an answer in the other, strictly in turn.  The worker reads record files and writes
state files through the blob folder, so frames stay small.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Final

import msgspec

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""The largest submission with room to spare; a longer frame means that the pipe is garbled."""


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class GetDeviceClasses(_Frame, frozen=True, tag="get-device-classes"):
    """Which arithmetic this machine repeats bit for bit."""


class ValidateRecord(_Frame, frozen=True, tag="validate-record"):
    """Check everything about a record that needs no retraining.

    `submit` and the `registration` that it names are canonical bytes; empty where it names none.
    """

    submit: bytes
    registration: bytes = b""


class RetraceInterval(_Frame, frozen=True, tag="retrace-interval"):
    """Retrain one interval; the work digest is keyed to `verifier` and covers `work_step`."""

    submit: bytes
    interval: int
    verifier: bytes
    work_step: int


class RecomputeStep(_Frame, frozen=True, tag="recompute-step"):
    """Recompute one step, from the state blob `pre_state` if that is here and fits (b"": none)."""

    submit: bytes
    interval: int
    step: int
    pre_state: bytes


class GetStepCommitment(_Frame, frozen=True, tag="get-step-commitment"):
    """The committed digest of one step with its inclusion path."""

    submit: bytes
    interval: int
    step: int


class RefuteWork(_Frame, frozen=True, tag="refute-work"):
    """Compare another verifier's work digest with what retracing the interval here gave.

    `submit` and `duty`: canonical bytes.
    """

    submission: bytes
    submit: bytes
    duty: bytes


Job = (
    GetDeviceClasses
    | ValidateRecord
    | RetraceInterval
    | RecomputeStep
    | GetStepCommitment
    | RefuteWork
)


class DeviceClasses(_Frame, frozen=True, tag="device-classes"):
    """The strongest first; `fault` says why exact or rounded arithmetic is not among them."""

    names: tuple[str, ...]
    fault: str


class Valid(_Frame, frozen=True, tag="valid"):
    """The record holds together."""


class Retrace(_Frame, frozen=True, tag="retrace"):
    """What came of retraining an interval.

    If it does not agree, `step` is the first step that differs, with the committed `leaf`, its
    `path` and the `recomputed` digest; `pre_state` names the blob with the state before it (32
    zero bytes where that is the interval's own snapshot), and `part` says in one word what differs.
    """

    agrees: bool
    step: int
    leaf: bytes
    path: tuple[bytes, ...]
    recomputed: bytes
    pre_state: bytes
    part: str
    work_digest: bytes
    distance_ppb: int
    milliseconds: int


class Refutation(_Frame, frozen=True, tag="refutation"):
    """Canonical bytes of a work refutation; empty where nothing is to be refuted."""

    payload: bytes


class StepDigest(_Frame, frozen=True, tag="step-digest"):
    recomputed: bytes


class StepCommitment(_Frame, frozen=True, tag="step-commitment"):
    leaf: bytes
    path: tuple[bytes, ...]


class Refused(_Frame, frozen=True, tag="refused"):
    """The record breaks a rule: the submitter's fault."""

    slug: str
    message: str


class Unable(_Frame, frozen=True, tag="unable"):
    """The known-answer test before the job failed: this machine would answer wrongly."""

    device_class: str
    fault: str


class Failed(_Frame, frozen=True, tag="failed"):
    """The worker could not do the job: this machine's fault or ours."""

    message: str


Answer = (
    DeviceClasses
    | Valid
    | Retrace
    | StepDigest
    | StepCommitment
    | Refutation
    | Refused
    | Unable
    | Failed
)

_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder[Job](Job)
_answer_decoder = msgspec.msgpack.Decoder[Answer](Answer)


def encode_frame(value: Job | Answer) -> bytes:
    """The frame of a job or an answer."""
    body = _encoder.encode(value)
    assert len(body) <= MAX_FRAME_BYTES
    return len(body).to_bytes(4, "big") + body


def read_job(pipe: BinaryIO) -> Job | None:
    """The next job from a blocking pipe; None at its end."""
    header = pipe.read(4)
    if len(header) < 4:
        return None
    length = int.from_bytes(header, "big")
    body = pipe.read(length)
    return _job_decoder.decode(body) if len(body) == length else None


async def read_answer(pipe: asyncio.StreamReader) -> Answer:
    """The next answer; raises EOFError or ValueError if the worker ended or garbled the pipe."""
    length = int.from_bytes(await pipe.readexactly(4), "big")
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"an answer of {length} bytes")
    answer: Answer = _answer_decoder.decode(await pipe.readexactly(length))
    return answer
