"""Things that must hold across the whole tree and that no other tool checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.models import OptionInfo

from milepost.cli.dev import dev
from milepost.cli.exits import EXIT_CODES
from milepost.cli.main import app
from milepost_consensus.problems import PROBLEMS
from milepost_node.problem_json import STATUS

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "consensus/milepost_consensus",
    "ml/milepost_ml",
    "node/milepost_node",
    "client/milepost",
)


def parse_sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def find_slugs(tree: ast.Module) -> Iterator[str]:
    """Literal slugs: `slug="..."` in calls, `slug = "..."` in classes, `make_problem("...")`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "make_problem"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)
        if isinstance(node, ast.keyword) and node.arg == "slug":
            values = [each for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
            yield from (each.value for each in values if isinstance(each.value, str) and each.value)
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if (
                    isinstance(line, ast.Assign)
                    and isinstance(line.targets[0], ast.Name)
                    and line.targets[0].id == "slug"
                    and isinstance(line.value, ast.Constant)
                ):
                    yield str(line.value.value)


def test_every_slug_has_an_explanation() -> None:
    used = {(slug, str(path)) for path, tree in parse_sources() for slug in find_slugs(tree)}
    used |= {(slug, "STATUS") for slug in STATUS}
    assert len(used) > 60, "the search itself must find the slugs"
    unexplained = sorted((slug, path) for slug, path in used if slug not in PROBLEMS)
    assert not unexplained


@pytest.mark.parametrize("slug", sorted(PROBLEMS))
def test_an_explanation_is_complete_and_readable(slug: str) -> None:
    title, meaning, remedy = PROBLEMS[slug]
    assert slug == slug.lower()
    assert not title.endswith(".")
    for text in (meaning, remedy):
        assert text.endswith("."), text
        assert "  " not in text


def test_explanations_are_in_alphabetical_order() -> None:
    assert list(PROBLEMS) == sorted(PROBLEMS)


# The commands and their document -----------------------------------------------------------------

COMMANDS = (ROOT / "docs" / "commands.md").read_text()


def test_every_command_and_option_is_in_the_documents() -> None:
    assert app.registered_commands
    for registered in app.registered_commands:
        function = registered.callback
        assert function is not None
        assert f"| `milepost {function.__name__}" in COMMANDS
        for option in find_options(function):
            assert option in COMMANDS, f"{function.__name__} {option}"


def test_every_command_of_a_group_is_in_the_documents() -> None:
    assert app.registered_groups
    for group in app.registered_groups:
        assert group.typer_instance is not None
        assert group.typer_instance.registered_commands
        for registered in group.typer_instance.registered_commands:
            function = registered.callback
            assert function is not None
            name = registered.name or function.__name__
            assert f"| `milepost {group.typer_instance.info.name} {name}" in COMMANDS
            for option in find_options(function):
                assert option in COMMANDS, f"{name} {option}"


def find_options(function: Callable[..., object]) -> list[str]:
    """The long names of a command's options, from its annotations."""
    hints = get_type_hints(function, include_extras=True)
    return [
        name
        for hint in hints.values()
        for each in get_args(hint)
        if isinstance(each, OptionInfo)
        # Inside Annotated, typer keeps the first name where a default would stand.
        for name in (each.default, *(each.param_decls or ()))
        if isinstance(name, str) and name.startswith("--")
    ]


def test_the_options_are_found_at_all() -> None:
    assert find_options(dev) == [
        "--nodes", "--malicious", "--dir", "--rule", "--fresh", "--port",
    ]  # fmt: skip


def test_every_exit_code_is_in_the_documents() -> None:
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in COMMANDS


def test_tests_that_the_security_page_names_exist() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`((?:tests/[\w/]+\.py)?(?:::\w+)?)`", text)
    assert len(named) > 20
    file = ""
    for name in filter(None, named):
        path, _, function = name.partition("::")
        file = path or file
        source = (ROOT / file).read_text()
        assert not function or f"def {function}(" in source, name
