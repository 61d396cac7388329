"""The command line: help, exit codes, what goes to which stream, what is never imported."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost.cli import exits
from milepost.errors import (
    CannotTell,
    MachineCannot,
    MilepostError,
    NotAllowed,
    Refused,
    Unreachable,
    WrongUsage,
)
from milepost.network import write_network
from milepost_consensus.errors import InvalidInput, InvalidSignature
from milepost_consensus.params import Params
from milepost_consensus.problems import PROBLEMS
from milepost_consensus.views import to_view
from milepost_ml.errors import InvalidRecord
from milepost_ml.snapshots import write_tensors
from tests.support.cli import run_cli
from tests.support.fake_nodes import Reply, Request, always, running
from tests.support.ledger import make_genesis
from tests.support.proofs import Evidence, decide_invalid, decide_undecided, make_tensors

pytestmark = pytest.mark.slow  # starts processes

COMMANDS = ("demo", "dev", "check", "submit", "status", "show", "verify", "explain")
HEAVY = {"torch", "keras", "tensorflow", "fastapi", "uvicorn", "pandas", "sklearn", "scipy"}


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def test_help_lists_every_command_and_every_exit_code() -> None:
    done = run_cli("--help", modules=True)
    assert done.code == 0
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\s", done.out, re.MULTILINE), command
    for code, meaning in exits.EXIT_CODES.items():
        assert re.search(rf"{code}\s+{re.escape(meaning[:30])}", done.out), code
    assert not done.modules & (HEAVY | {"numpy", "httpx"})


def test_the_exit_codes_are_the_documented_ones() -> None:
    assert list(exits.EXIT_CODES) == [0, 1, 2, 3, 4, 5, 6, 130]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WrongUsage("x"), 2),
        (CannotTell("x"), 3),
        (NotAllowed("x"), 4),
        (Unreachable("x"), 5),
        (MachineCannot("x"), 6),
        (MilepostError("x"), 1),
        (Refused("x", slug="duplicate", status=409), 1),
        (Refused("x", slug="not-a-member", status=403), 4),
        (Refused("x", slug="bad-signature", status=422), 4),
        (Refused("x", slug="wrong-network", status=409), 2),
        (InvalidRecord("x", slug="not-finite"), 1),
        (InvalidRecord("x", slug="missing-extra"), 6),
        (InvalidInput("x"), 1),
        (InvalidSignature("x"), 4),
    ],
)
def test_errors_become_exit_codes(error: Exception, code: int) -> None:
    assert exits.get_exit_code(error) == code


@pytest.mark.parametrize("arguments", [["nonsense"], ["verify"], ["dev", "--nodes", "x"], ["-x"]])
def test_wrong_usage_is_2_and_prints_nothing_on_stdout(arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_version() -> None:
    assert run_cli("--version").out == "milepost 0.1.0\n"


# explain -----------------------------------------------------------------------------------------


def test_explain_is_offline_and_light() -> None:
    done = run_cli("explain", "duplicate", modules=True)
    assert done.code == 0
    assert PROBLEMS["duplicate"].title in done.out
    assert PROBLEMS["duplicate"].remedy in done.out
    assert not done.modules & (HEAVY | {"numpy", "httpx"})


def test_explain_suggests_for_an_unknown_slug() -> None:
    done = run_cli("explain", "duplicat")
    assert (done.code, done.out) == (2, "")
    assert "duplicate" in done.err


def test_explain_lists_everything() -> None:
    done = run_cli("explain")
    assert [line.split()[0] for line in done.out.splitlines()] == sorted(PROBLEMS)
    assert run_cli("explain", "--json").json["problems"].keys() == PROBLEMS.keys()


# verify ------------------------------------------------------------------------------------------


def test_verify_loads_no_framework(evidence: Evidence) -> None:
    done = run_cli("verify", evidence.model, "--trust", evidence.trust, modules=True)
    assert done.code == 0
    assert not done.modules & (HEAVY | {"numpy", "httpx"})
    assert "ACCEPTED" in done.out
    for name in ("weights", "file", "recorded", "final", "retraced", "verdict"):
        assert re.search(rf"✓ {name}\b", done.out), name
    assert "Not shown:" in done.out


def test_the_fingerprint_of_the_trust_is_always_told(evidence: Evidence) -> None:
    done = run_cli("verify", evidence.model, "--trust", evidence.trust)
    shown = re.search(r"fingerprint ((?:[0-9a-f]{4} ?){4})\)", done.out)
    assert shown is not None
    view = run_cli("verify", evidence.model, "--trust", evidence.trust, "--json").json
    assert view["subject"]["fingerprint"] == shown[1]
    evidence.write_trust("staging")
    other = run_cli("verify", evidence.model, "--trust", evidence.trust)
    assert "fingerprint" in other.out
    assert shown[1] not in other.out


def test_verify_json_is_one_object_of_the_documented_shape(evidence: Evidence) -> None:
    done = run_cli("verify", evidence.model, "--trust", evidence.trust, "--json")
    view = done.json
    assert (view["verdict"], view["exit"], done.code) == ("accepted", 0, 0)
    assert [check["name"] for check in view["checks"]] == [
        "weights", "file", "recorded", "final", "envelope", "retraced", "verdict",
    ]  # fmt: skip
    assert all(set(check) == {"name", "state", "detail"} for check in view["checks"])
    assert view["coverage"]["retraced"] == 6
    assert view["subject"]["submission"].startswith("sub_")


def test_verify_says_no_for_other_weights(evidence: Evidence) -> None:
    tensors = make_tensors()
    tensors["fc1.bias"][0] += 1
    changed = evidence.folder / "changed.safetensors"
    write_tensors(changed, tensors)
    arguments = ("verify", changed, "--proof", evidence.proof, "--trust", evidence.trust)
    done = run_cli(*arguments)
    assert done.code == 1
    assert "✗ weights" in done.out
    assert "fc1.bias" in done.out
    assert "NOT THIS MODEL" in done.out
    view = run_cli(*arguments, "--json").json
    assert (view["verdict"], view["exit"]) == ("mismatch", 1)


def test_verify_says_cannot_tell_without_proof_or_trust(evidence: Evidence, tmp_path: Path) -> None:
    done = run_cli("verify", evidence.model, cwd=tmp_path)
    assert (done.code, done.out.count("CANNOT TELL")) == (3, 1)
    evidence.proof.unlink()
    done = run_cli("verify", evidence.model, "--trust", evidence.trust, "--json")
    assert (done.code, done.json["verdict"], done.json["slug"]) == (3, "unknown", "no-proof")
    assert (done.json["checks"], done.json["coverage"]) == ([], None)


def test_verify_says_do_not_trust(evidence: Evidence) -> None:
    verdict = replace(evidence.bundle.verdict, reason="ALL 6 intervals retrace")
    evidence.write_proof(replace(evidence.bundle, verdict=verdict))
    done = run_cli("verify", evidence.model, "--trust", evidence.trust)
    assert done.code == 1
    assert "DO NOT TRUST" in done.out


def test_verify_rejects_an_invalid_verdict(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, partial(decide_invalid, step=9))
    done = run_cli("verify", evidence.model, "--trust", evidence.trust)
    assert done.code == 1
    assert re.search(r"REJECTED\s+interval 2 does not retrace", done.out)


def test_verify_cannot_tell_for_an_undecided_verdict(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, decide_undecided, params=Params(hold_window=1))
    assert run_cli("verify", evidence.model, "--trust", evidence.trust).code == 3


@pytest.mark.parametrize(
    ("requirement", "code"),
    [("retraced>=100%", 0), ("retraced >= 99.5", 0), ("retraced>=101", 2), ("all", 2), ("5", 2)],
)
def test_verify_with_a_requirement(evidence: Evidence, requirement: str, code: int) -> None:
    done = run_cli("verify", evidence.model, "--trust", evidence.trust, "--require", requirement)
    assert done.code == code


def test_verify_of_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    done = run_cli("verify", tmp_path / "none.safetensors", "--json")
    assert (done.code, done.json["problem"]["slug"]) == (2, "no-such-thing")


# status, show, submit without a network ----------------------------------------------------------


@pytest.fixture
def dead_url() -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_status_without_a_network_is_wrong_usage(tmp_path: Path) -> None:
    done = run_cli("status", cwd=tmp_path, modules=True)
    assert done.code == 2
    assert "milepost dev" in done.err
    assert not done.modules & (HEAVY | {"numpy"})


def test_status_of_unreachable_nodes_is_5(dead_url: str) -> None:
    done = run_cli("status", "--node", dead_url, "--json")
    assert done.code == 5
    assert done.json["nodes"][0]["url"] == dead_url
    assert "error" in done.json["nodes"][0]
    assert run_cli("status", "sub_123456", "--node", dead_url).code == 5
    assert run_cli("show", "3", "--node", dead_url).code == 5


def test_status_shows_nodes_and_goes_on_where_one_is_down(dead_url: str) -> None:
    def answer(request: Request) -> Reply:
        if request.path.startswith("/v1/submissions"):
            return Reply(200, {"submissions": []})
        classes = ["exact/1", "rounded/1", "torch-2/x86_64"]
        view = {"node": "birch", "network": "n", "network_id": "ab" * 32, "height": 41}
        return Reply(200, {**view, "serves": classes})

    with running(answer) as (node,):
        done = run_cli("status", "--node", dead_url, "--node", node.url)
    assert done.code == 0
    assert re.search(r"birch\s+http://127\.0\.0\.1:\d+\s+41\s+ready", done.out)
    assert "unreachable" in done.out
    assert "Retrained as exact/1 by 1 of 1 nodes" in done.out
    assert "Retrained as torch-2/x86_64 by 1 of 1 nodes" in done.out


def test_a_refusal_of_a_node_is_told_with_its_slug() -> None:
    problem = {"type": "/problems/unknown-submission", "detail": "no submission 123456"}
    with running(always(404, problem)) as (node,):
        done = run_cli("status", "sub_123456", "--node", node.url, "--json")
    assert done.code == 1
    assert done.json == {
        "problem": {"slug": "unknown-submission", "detail": "no submission 123456"},
        "exit": 1,
    }
    assert "[unknown-submission]" in done.err


def test_show_refuses_what_is_nothing(tmp_path: Path) -> None:
    with running(always(200, to_view(make_genesis(4)))) as (node,):
        done = run_cli("show", "thing", "--node", node.url, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "[no-such-thing]" in done.err


def test_show_describes_a_model_file(evidence: Evidence) -> None:
    done = run_cli("show", evidence.model, "--json", modules=True)
    assert done.json["tensors"][0] == {"name": "fc1.bias", "dtype": "F32", "shape": [8]}
    assert done.json["content"] == evidence.bundle.verdict.model_digest.hex()
    assert not done.modules & (HEAVY | {"numpy"})
    assert "fc1.bias" in run_cli("show", evidence.model).out


def test_show_describes_a_proof_without_vouching_for_it(evidence: Evidence) -> None:
    done = run_cli("show", evidence.proof)
    assert done.code == 0
    assert "not checked here" in done.out
    assert "VALID" in done.out


def test_submit_of_nothing_is_wrong_usage(tmp_path: Path) -> None:
    done = run_cli("submit", tmp_path / "none", "--json")
    assert (done.code, done.json["problem"]["slug"]) == (2, "no-such-thing")


def test_submit_with_a_readable_key_is_not_allowed(tmp_path: Path) -> None:
    network = tmp_path / "net"
    write_network(network, name="n", nodes=1)
    (network / "submitter.key").chmod(0o644)
    (tmp_path / "run").mkdir()
    done = run_cli("submit", tmp_path / "run", "--network", network)
    assert done.code == 4
    assert "[key-readable]" in done.err


# streams and colours -----------------------------------------------------------------------------


def test_no_traceback_unless_asked_for(tmp_path: Path) -> None:
    done = run_cli("verify", tmp_path / "none")
    assert "Traceback" not in done.err
    assert "Traceback" in run_cli("-v", "verify", tmp_path / "none").err


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}, {}])
def test_no_colours_where_none_are_wanted(evidence: Evidence, environment: dict[str, str]) -> None:
    done = run_cli("verify", evidence.model, "--trust", evidence.trust, env=environment)
    assert "\x1b[" not in done.out + done.err


def test_colours_on_request_only_colour(evidence: Evidence) -> None:
    arguments = ("verify", evidence.model, "--trust", evidence.trust)
    plain = run_cli(*arguments)
    coloured = run_cli(*arguments, env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert "\x1b[" in coloured.out
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.out) == plain.out


def test_text_is_printed_as_it_is_not_as_markup(tmp_path: Path) -> None:
    done = run_cli("verify", tmp_path / "[bold]x[/bold]")
    assert "[bold]x[/bold]" in done.err


def test_json_goes_through_unchanged_by_the_terminal(evidence: Evidence) -> None:
    narrow = run_cli(
        "verify", evidence.model, "--trust", evidence.trust, "--json", env={"COLUMNS": "20"}
    )
    assert json.loads(narrow.out)["verdict"] == "accepted"


def test_a_node_that_speaks_something_else_is_no_node() -> None:
    with running(always(200, {"submission": {"phase": "great"}, "verdict": None})) as (node,):
        for arguments in (("status", "sub_123456"), ("show", "7"), ("show", "birch"), ("status",)):
            done = run_cli(*arguments, "--node", node.url)
            assert done.code == 5, arguments
            assert "does not speak this protocol" in done.err or "gave no list" in done.err
