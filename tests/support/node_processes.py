"""Real node processes on 127.0.0.1 and tiny real records to submit to them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import torch

from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.encoding import encode
from milepost_consensus.members import VERIFIER, Genesis, compute_network_id
from milepost_consensus.params import Params
from milepost_consensus.payloads import CLASS, Submit, compute_submission_id
from milepost_consensus.transactions import make_tx
from milepost_ml.admission import build_submit
from milepost_ml.files import encode_manifest
from milepost_ml.recorder import Run
from tests.support.ledger import make_genesis, make_signer
from tests.support.nodes import write_home
from tests.support.records import BATCH_SIZE, EVERY, RECORDS, STEPS, TinyNet

START_SECONDS = 600.0
VERDICT_SECONDS = 120.0
QUICK = Params(
    min_block_ms=20,
    idle_block_ms=100,
    timeout_ms=1_000,
    timeout_step_ms=500,
    attest_window=600,
    auditors=2,
    panel_window=600,
)


def record_run(
    parent: Path, name: str, *, poisoned: Container[int] = (), profile: str = CLASS
) -> Path:
    """Record TinyNet; at the `poisoned` steps it learns other labels than the record says."""
    rng = np.random.default_rng(11)
    inputs = torch.from_numpy(rng.normal(size=(RECORDS, 6)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, size=RECORDS))
    torch.manual_seed(len(name))
    model = TinyNet()
    optimizer = torch.optim.SGD(
        [item for item in model.parameters() if item.requires_grad], 0.1, momentum=0.9
    )
    loss_of = torch.nn.functional.cross_entropy
    run = Run(
        name,
        model,
        optimizer,
        loss=loss_of,
        every=EVERY,
        folder=parent,
        seed=len(name),
        profile=profile,
        selfcheck=False,
        quiet=True,
    )
    batches = run.batches(inputs, labels, batch_size=BATCH_SIZE, steps=STEPS)
    for step, (x, y) in enumerate(batches):
        loss = loss_of(model(x), (y + 1) % 3 if step in poisoned else y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


def find_ports(count: int) -> list[int]:
    """Ports that nobody uses at this moment."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def poll(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of the condition; fails after some time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


class NodeProcesses:
    """Nodes as processes; use as a context manager, which kills what is left."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        params: Params = QUICK,
        malicious: Mapping[int, str] | None = None,
        genesis: Genesis | None = None,
    ) -> None:
        """With `genesis`, its members node-0 to node-(count - 1) are started, at endpoints of this
        machine; without, all members are nodes with `params`."""
        ports = find_ports(count)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        bare = genesis or make_genesis(count, params=params)
        names = [f"node-{i}" for i in range(count)]
        members = tuple(
            msgspec.structs.replace(member, endpoint=self.urls[names.index(member.name)])
            if member.name in names
            else member
            for member in bare.members
        )
        self.genesis: Genesis = msgspec.structs.replace(bare, members=members)
        self.network = compute_network_id(self.genesis)
        self.submitter: Ed25519Signer = make_signer("submitter")
        self.homes = [
            write_home(
                folder / name,
                self.genesis,
                name,
                port=ports[i],
                malicious=(malicious or {}).get(i, ""),
            )
            for i, name in enumerate(names)
        ]
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client(timeout=60.0, trust_env=False)

    def __enter__(self) -> NodeProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
        self._http.close()

    def start(self, *indices: int) -> None:
        """Start nodes; `wait_ready` says when they are there."""
        for index in indices:
            home = self.homes[index]
            with (home / "printed.log").open("ab") as printed:
                self.running[index] = subprocess.Popen(
                    [sys.executable, "-m", "milepost_node", "--home", str(home)],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                )

    def read_log(self, index: int) -> str:
        """What a node printed."""
        return (self.homes[index] / "printed.log").read_text()

    def wait_ready(self) -> None:
        """Until all started nodes say that they are ready."""
        for index in self.running:
            poll(partial(self._is_ready, index), START_SECONDS, f"node {index} ready")

    def get_height(self, index: int) -> int:
        """The height a node says it is at; -1 while it does not answer."""
        code = self.running[index].poll()
        assert code is None, f"node {index} ended with {code}:\n{self.read_log(index)}"
        try:
            shown = self.get(index, "/v1/status")
        except httpx.HTTPError:
            return -1
        return int(shown["height"])

    def _is_ready(self, index: int) -> bool:
        code = self.running[index].poll()
        assert code is None, f"node {index} ended with {code}:\n{self.read_log(index)}"
        try:
            ready = self._http.get(f"{self.urls[index]}/health/ready").status_code == 200
            # One that never retrains serves no device class.
            if not self.genesis.members[index].roles & VERIFIER:
                return ready
            status = self.get(index, "/v1/status")
            return ready and bool(status["device_classes"] and status["serves"])
        except httpx.HTTPError:
            return False

    def end(self, index: int, number: signal.Signals) -> int:
        """Send a signal to a node and wait for its end; returns the exit code."""
        process = self.running.pop(index)
        process.send_signal(number)
        return process.wait(60)

    def get(self, index: int, path: str) -> Any:
        """The JSON answer of a node, or None for a refusal."""
        answer = self._http.get(self.urls[index] + path)
        return answer.json() if answer.status_code == 200 else None

    def submit(self, index: int, run: Path) -> tuple[Submit, str]:
        """Upload a run and submit it to a node; returns the submission's id in hex."""
        submit, manifest = build_submit(run)
        contents = {file.digest: (run / file.name).read_bytes() for file in manifest.files}
        contents[submit.manifest.hex()] = encode_manifest(manifest)
        url = self.urls[index]
        for digest, data in contents.items():
            answer = self._http.put(f"{url}/v1/blobs/{digest}", content=data)
            assert answer.status_code == 201, answer.text
        height = self.get(index, "/v1/status")["height"]
        tx = make_tx(submit, signer=self.submitter, valid_until=height + 500, network=self.network)
        answer = self._http.post(f"{url}/v1/transactions", content=encode(tx))
        assert answer.status_code == 202, answer.text
        expected = compute_submission_id(self.submitter.public, submit, self.network).hex()
        assert answer.json()["submission"] == expected
        return submit, expected

    def wait_verdict(self, index: int, submission: str) -> dict[str, Any]:
        """The verdict as one node shows it."""

        def look() -> Any:
            assert self.running[index].poll() is None, self.read_log(index)
            shown = self.get(index, f"/v1/submissions/{submission}")
            return shown and shown["verdict"]

        verdict: dict[str, Any] = poll(look, VERDICT_SECONDS, f"a verdict at node {index}")
        return verdict
