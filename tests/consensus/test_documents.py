"""The specification and the code name the same rules, and every refusal is explained."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from milepost_consensus import errors
from milepost_consensus.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
CODE = sorted((ROOT / "consensus" / "milepost_consensus").glob("*.py"))
RULES = (ROOT / "docs" / "spec" / "rules.md").read_text()
ELECTION = (ROOT / "docs" / "spec" / "election.md").read_text()


def get_slugs() -> set[str]:
    """Every slug that the package raises: keyword arguments and class attributes."""
    slugs: set[str] = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "slug":
                # A slug that is computed could not be found here.
                assert isinstance(node.value, ast.Constant), f"{path.name}:{node.value.lineno}"
                slugs.add(str(node.value.value))
    for each in vars(errors).values():
        if isinstance(each, type) and issubclass(each, errors.InvalidInput):
            slugs.add(each.slug)
    return slugs


def test_every_slug_is_explained() -> None:
    missing = get_slugs() - PROBLEMS.keys()
    assert not missing


def test_explanations_are_complete_and_in_order() -> None:
    assert list(PROBLEMS) == sorted(PROBLEMS)
    for slug, problem in PROBLEMS.items():
        assert re.fullmatch(r"[a-z0-9-]+", slug)
        assert all(problem), slug
        assert problem.meaning.endswith("."), slug
        assert problem.remedy.endswith("."), slug


def test_every_rule_is_a_function_and_every_function_names_a_rule_that_exists() -> None:
    stated = set(re.findall(r"^\*\*(R\d+) ", RULES, re.MULTILINE))
    assert stated == {f"R{i}" for i in range(1, len(stated) + 1)}
    named = {rule for path in CODE for rule in re.findall(r"\bR\d+\b", path.read_text())}
    assert named == stated


def test_the_election_is_specified_in_numbered_sentences() -> None:
    numbers = re.findall(r"^E(\d+)\. ", ELECTION, re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
