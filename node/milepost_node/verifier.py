"""What the ledger waits for from this node: records held, intervals retraced, panels answered.

The ledger state alone says what is to be done (`tasks`), so a restarted node goes on where the
chain stands.  Three lanes run side by side: one fetches and validates records, one retrains, one
finds out which of the others did not.
Nothing is done twice.  Whether an answer is accepted is for the ledger rules to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import VERIFIER
from milepost_consensus.payloads import Hold
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import Accusation, Duty, Submission
from milepost_consensus.views import to_view
from milepost_ml.errors import MilepostMLError
from milepost_node.answers import Answers, Key, Payload
from milepost_node.behaviours.registry import HONEST, Behaviour
from milepost_node.blobs import BlobStore
from milepost_node.clock import read_monotonic, wait_for_event
from milepost_node.errors import KnownAnswerFailed, NodeError, WorkerError
from milepost_node.jobs import DeviceClasses
from milepost_node.questions import (
    CannotRetrain,
    IntervalQuestion,
    Means,
    NotYet,
    OnRetraced,
    Question,
    StepQuestion,
)
from milepost_node.records import Records
from milepost_node.retracer import Retracer
from milepost_node.service import Service
from milepost_node.tasks import Doubt, Task, plan_records, plan_refuting, plan_retracing

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""A task at which the worker fails this often is left to others."""
RETRY_FIRST_SECONDS: Final = 1.0
RETRY_LAST_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 1.0
"""A lane without work looks this often whether a delayed task is due."""

Plan = Callable[[LedgerState, bytes], Iterator[Task]]


class Verifier:
    """Does the share of one node, `me`, in the verification."""

    def __init__(
        self,
        me: bytes,
        *,
        behaviour: Behaviour,
        clique: tuple[str, ...] = (),
        get_state: Callable[[], LedgerState],
        answers: Answers,
        blobs: BlobStore,
        records: Records,
        retracer: Retracer,
        on_retraced: OnRetraced = lambda submit, found: None,
    ) -> None:
        self._me = me
        self._behaviour = behaviour
        self._get_state = get_state
        self._answers = answers
        self._records = records
        self._retracer = retracer
        self._means = Means(me, records, retracer, blobs, clique=clique, on_retraced=on_retraced)
        self._service = Service(me, get_state=get_state, answers=answers)
        self._wakes = (asyncio.Event(), asyncio.Event(), asyncio.Event())
        self._open: set[bytes] = set()
        self._failures: Counter[Key] = Counter()
        self.done: set[Key] = set()
        """Tasks of open submissions that are done or given up."""
        self.put_off: dict[Key, float] = {}
        """When to try again what failed."""

    @property
    def device_classes(self) -> tuple[str, ...]:
        """What this machine can repeat; empty until the worker has found out."""
        return self._service.device_classes

    def count_waiting(self) -> int:
        """How many intervals and steps the ledger waits for from this node."""
        tasks = plan_retracing(self._get_state(), self._me)
        return sum(task.key not in self.done for task in tasks)

    async def run(self) -> None:
        """Serve for ever."""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._serve(plan_records, self._wakes[0]))
            lanes.create_task(self._serve_retracing())
            lanes.create_task(self._serve(plan_refuting, self._wakes[2]))
            lanes.create_task(self._repeat())

    def on_decided(self) -> None:
        """Look at the ledger again: a block was decided."""
        self._answers.settle()
        self._service.on_decided()
        submissions = self._get_state().open_submissions
        still_open = {submission.id for submission in submissions}
        if still_open != self._open:
            self._open = still_open
            self._retracer.forget_all_but(submission.submit for submission in submissions)
        self.done = {key for key in self.done if key[1] in still_open}
        self.put_off = {key: due for key, due in self.put_off.items() if key[1] in still_open}
        for key in [key for key in self._failures if key[1] not in still_open]:
            del self._failures[key]
        for wake in self._wakes:
            wake.set()

    async def _serve_retracing(self) -> None:
        # The framework takes seconds of both processors: only who retrains needs it.
        while not self._is_verifier():
            self._wakes[1].clear()
            await wait_for_event(self._wakes[1], LOOK_SECONDS)
        while not self.device_classes:
            if not await self._find_device_classes():
                await asyncio.sleep(RETRY_LAST_SECONDS)
        logger.info("ready to retrain", extra={"device_classes": list(self.device_classes)})
        await self._serve(plan_retracing, self._wakes[1])

    async def _find_device_classes(self) -> bool:
        """Ask the worker what it repeats, and offer that; False if it could not tell."""
        found = DeviceClasses((), "")
        try:
            await self._retracer.start()
            found = await self._retracer.get_device_classes()
        except NodeError as error:
            logger.error("no device class", extra={"reason": str(error)})
        self._service.offer(found)
        self._means = replace(self._means, device_classes=self.device_classes)
        return bool(found.names)

    def _is_verifier(self) -> bool:
        """Whether the ledger may elect this node; members' roles change."""
        member = self._get_state().members.get(self._me)
        return member is not None and bool(member.roles & VERIFIER)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._answers.repeat()

    async def _serve(self, plan: Plan, wake: asyncio.Event) -> None:
        """One lane: always the first task of the plan that is not done or put off."""
        while True:
            wake.clear()
            task = self._pick(plan)
            if task is not None:
                await self._perform(task)
                continue
            await wait_for_event(wake, LOOK_SECONDS)

    def _pick(self, plan: Plan) -> Task | None:
        now = read_monotonic()
        for task in plan(self._get_state(), self._me):
            if task.key not in self.done and self.put_off.get(task.key, 0.0) <= now:
                return task
        return None

    async def _perform(self, task: Task) -> None:
        """Do a task, put it off, or give it up; the node goes on whatever happens."""
        fields = {"task": task.key[0], "submission": task.key[1], "interval": task.key[2]}
        try:
            payload = await self._answer(task)
        except NotYet:
            self.put_off[task.key] = read_monotonic() + LOOK_SECONDS
        except CannotRetrain as error:
            logger.warning(
                "not retraced: this machine cannot repeat its arithmetic",
                extra={
                    **fields,
                    "slug": "device-class",
                    "recorded_on": str(error),
                    "this_machine": list(self.device_classes),
                },
            )
            self.done.add(task.key)
        except KnownAnswerFailed as error:
            self.done.add(task.key)
            self._service.withdraw(error)
            # What was changed under the worker may have made it another machine.
            await self._find_device_classes()
        except NodeError as error:
            self._failures[task.key] += 1
            count = self._failures[task.key]
            if isinstance(error, WorkerError) and count >= ATTEMPTS:
                logger.error("task given up", extra={**fields, "reason": str(error)})
                self.done.add(task.key)
                return
            logger.warning("task put off", extra={**fields, "reason": str(error)})
            pause = min(RETRY_LAST_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(count, 10))
            self.put_off[task.key] = read_monotonic() + pause
        except (InvalidInput, MilepostMLError) as error:
            if error.slug == "store-full":
                self.put_off[task.key] = read_monotonic() + RETRY_LAST_SECONDS
            else:
                self.done.add(task.key)
            logger.warning(
                "record refused", extra={**fields, "slug": error.slug, "reason": str(error)}
            )
        except Exception:
            # One submission must not take the verifier down for all others.
            logger.exception("task failed", extra=fields)
            self.done.add(task.key)
        else:
            self.done.add(task.key)
            if payload is not None:
                self._answers.put(task.key, payload)

    async def _answer(self, task: Task) -> Payload | None:
        match task.subject:
            case None:
                return await self._hold(task.submission)
            case Doubt(duty=doubted):
                return await self._refute(task.submission, doubted)
            case Duty() as duty:
                return await self._reply(
                    IntervalQuestion(self._means, self._get_state(), task.submission, duty)
                )
            case Accusation() as accusation:
                return await self._reply(
                    StepQuestion(self._means, self._get_state(), task.submission, accusation)
                )

    async def _refute(self, submission: Submission, duty: Duty) -> Payload | None:
        """Show that another did not retrain, where retraining here tells."""
        found = await self._retracer.refute_work(submission.id, submission.submit, duty)
        if found is not None:
            logger.warning(
                "refuted: it did not retrain",
                extra={
                    "submission": submission.id,
                    "interval": duty.interval,
                    "verifier": duty.verifier,
                },
            )
        return found

    async def _hold(self, submission: Submission) -> Payload:
        """Get every file of the record and check all that needs no retraining."""
        await self._records.fetch_record(submission.submit, holders=submission.holders)
        registrations = self._get_state().registrations
        await self._retracer.validate_record(
            submission.submit, registrations.get(submission.submit.registration)
        )
        logger.info("record held", extra={"submission": submission.id})
        return Hold(submission.id)

    async def _reply(self, question: Question) -> Payload | None:
        """What this node's behaviour makes of a question; the truth, if it is honest."""
        payload = await self._behaviour.answer(question)
        if self._behaviour is not HONEST:
            logger.warning(
                "MISBEHAVING ON PURPOSE",
                extra={
                    "behaviour": self._behaviour.name,
                    "submission": question.submission.id,
                    "said": to_view(payload) if payload is not None else "nothing",
                    "retraces": question.truth,
                },
            )
        return payload
