"""Real text to measure with: the documentation strings of Python's standard library."""

from __future__ import annotations

import ast
import os
import random
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


# The tests are no documentation, and not every distribution ships them.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def docstrings(limit: int, seed: int = 0) -> list[str]:
    """Returns up to ``limit`` different docstrings, the same for the same seed and Python."""
    texts = sorted({text for path in _modules() for text in _docstrings(path)})
    random.Random(seed).shuffle(texts)
    return texts[:limit]


def _modules() -> Iterator[Path]:
    for folder, folders, files in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except SyntaxError:  # a template, or a module for another Python
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
