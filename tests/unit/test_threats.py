"""The threat model is proven line by line: see SECURITY.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = (ROOT / "SECURITY.md").read_text("utf-8").partition("## The threat model")[2]
LINE = re.compile(r"^\| (?!threat |---)(.+?) \| .+ \|$", re.MULTILINE)
THREATS = LINE.findall(MODEL.partition("## What is left")[0])


def threats_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The lines of the threat model that a test bears the name of."""
    return [
        ast.literal_eval(mark.args[0])
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.threat"
    ]


@pytest.fixture(scope="module")
def proofs() -> dict[str, list[str]]:
    found = defaultdict(list)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for threat in threats_of(test):
                    found[threat].append(f"{file.name}::{test.name}")
    return found


@pytest.mark.parametrize("threat", THREATS)
def test_a_test_bears_the_name_of_each_threat(threat: str, proofs: dict[str, list[str]]) -> None:
    assert proofs[threat]


def test_every_threat_that_a_test_names_is_in_the_model(proofs: dict[str, list[str]]) -> None:
    assert set(proofs) <= set(THREATS)
    assert len(THREATS) == len(set(THREATS)) > 40
