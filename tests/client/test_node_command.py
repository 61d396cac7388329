"""`milepost node`: exit codes and words towards nodes that answer, lag, fail or are not there."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from milepost.cli import exits
from milepost.errors import WrongUsage
from milepost.homes import find_url
from tests.support.cli import get_command, run_cli
from tests.support.fake_nodes import always, running
from tests.support.node_processes import NodeProcesses, poll


def test_a_home_is_asked_where_it_listens(tmp_path: Path) -> None:
    toml = tmp_path / "node.toml"
    for host, url in (
        ("127.0.0.1", "http://127.0.0.1:7101"),
        ("0.0.0.0", "http://127.0.0.1:7101"),
        ("::", "http://[::1]:7101"),
        ("fir.example", "http://fir.example:7101"),
    ):
        toml.write_text(f'host = "{host}"\nport = 7101\n')
        assert find_url(str(tmp_path)) == url
    assert find_url("http://fir.example:7101/") == "http://fir.example:7101"


@pytest.mark.parametrize("text", ["port = true", "host = 4", "port = ", "", 'port = "7"'])
def test_a_home_that_does_not_say_where_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(WrongUsage):
        find_url(str(tmp_path))
    with pytest.raises(WrongUsage, match="home of a node"):
        find_url(str(tmp_path / "none"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (200, {"reason": "ready"}, exits.YES, "ready"),
        (206, {"reason": "syncing", "behind": 12}, exits.CANNOT_TELL, "syncing, behind 12"),
        (503, {"reason": "key-in-use", "detail": "signed elsewhere"}, exits.NO, "elsewhere"),
    ],
)
def test_health_is_an_exit_code_with_reasons(
    status: int, body: dict[str, object], code: int, words: str
) -> None:
    with running(always(status, body)) as (node,):
        done = run_cli("node", "health", node.url, modules=True)
        assert done.code == code
        assert words in done.out
        assert not done.modules & {"torch", "numpy", "fastapi", "milepost_node", "milepost_ml"}
        shown = run_cli("node", "health", node.url, "--json")
        assert shown.code == code
        assert shown.json == {"url": node.url, **body, "exit": code}


@pytest.mark.slow
def test_health_of_what_is_no_node_is_no_answer() -> None:
    with running(always(200, b"<html>"), always(404, {})) as nodes:
        for node in nodes:
            assert run_cli("node", "health", node.url).code == exits.UNREACHABLE
        gone = nodes[0].url
    assert run_cli("node", "health", gone).code == exits.UNREACHABLE


@pytest.mark.slow
@pytest.mark.e2e
def test_start_is_the_node_itself(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path / "net", 1) as nodes:
        home = nodes.homes[0]
        process = subprocess.Popen(get_command(["node", "start", home]))
        try:
            poll(lambda: run_cli("node", "health", home).code == exits.YES, 120, "healthy")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert run_cli("node", "health", home).code == exits.UNREACHABLE
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.e2e
def test_status_peers_and_doctor_of_a_network_that_loses_a_node(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path / "net", 4) as nodes:
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        home = nodes.homes[0]
        shown = run_cli("node", "status", home, "--json", modules=True)
        assert shown.code == exits.YES
        assert not shown.modules & {"torch", "numpy", "fastapi", "milepost_node", "milepost_ml"}
        assert (shown.json["node"], shown.json["peers_reachable"]) == ("node-0", 3)
        assert shown.json["readiness"] == {"reason": "ready"}
        for word in ("node-0 at", "3 of 3 reachable", "active", "rounded/1", "honest"):
            assert word in run_cli("node", "status", nodes.urls[0]).out
        listed = run_cli("node", "peers", home)
        assert listed.code == exits.YES
        assert listed.out.count("reachable") == 3
        done = run_cli("node", "doctor", home)
        assert done.code == exits.YES, done.out + done.err
        assert "nothing fails" in done.out

        assert nodes.end(3, signal.SIGTERM) == 0
        poll(lambda: run_cli("node", "peers", home).code == exits.NO, 60, "node-3 missed")
        assert "unreachable" in run_cli("node", "peers", home).out
        done = run_cli("node", "doctor", home, "--json")
        assert done.code == exits.YES, "three of four are a quorum"
        found = {each["name"]: each for each in done.json["findings"]}
        assert found["peer node-3"]["state"] == "warn"
        assert found["peer node-2"]["state"] == "ok"
        assert "rounded/1" in found["devices"]["detail"]
        assert found["clock"]["state"] == "ok"

        (home / "node.key").chmod(0o644)
        done = run_cli("node", "doctor", home)
        assert done.code == exits.NO
        assert "chmod 600" in done.out


@pytest.mark.slow
def test_backup_and_restore_of_a_home_that_never_ran(tmp_path: Path) -> None:
    nodes = NodeProcesses(tmp_path / "net", 1)
    file, home = tmp_path / "a.backup", tmp_path / "again"
    done = run_cli("node", "backup", nodes.homes[0], file)
    assert done.code == exits.YES, done.err
    assert "0 blocks" in done.out
    assert "holds the node's key" in done.err
    done = run_cli("node", "restore", file, home)
    assert done.code == exits.YES, done.err
    assert "quarantine" in done.err
    assert (home / "node.key").read_bytes() == (nodes.homes[0] / "node.key").read_bytes()
    done = run_cli("node", "restore", file, home)
    assert (done.code, "folder-in-use" in done.err) == (exits.USAGE, True)
