"""Each guarantee of docs/how-it-stays-right.md names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-it-stays-right.md").read_text("utf-8")
GUARANTEES = [
    pytest.param(re.findall(r"`(tests/\S+)`", text), id=text.partition("**")[0])
    for text in re.split(r"^- \*\*", PAGE.partition("## What is not")[0], flags=re.MULTILINE)[1:]
]


@pytest.mark.parametrize("tests", GUARANTEES)
def test_a_guarantee_is_proven_by_tests_that_there_are(tests: list[str]) -> None:
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        code = ast.parse((ROOT / file).read_text("utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {each.name for each in ast.walk(code) if isinstance(each, functions)}, test
