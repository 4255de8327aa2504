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
    return list(named_docstrings(limit, seed))


def named_docstrings(limit: int, seed: int = 0) -> dict[str, str]:
    """As `docstrings`; each with the dotted name of what it documents, as its value."""
    names: dict[str, str] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in _modules(library):
        module = ".".join(path.relative_to(library).with_suffix("").parts)
        for name, text in _docstrings(path, module.removesuffix(".__init__")):
            names[text] = min(name, names.get(text, name))
    texts = sorted(names)
    random.Random(seed).shuffle(texts)
    return {text: names[text] for text in texts[:limit]}


def _modules(library: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except SyntaxError:  # a template, or a module for another Python
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    todo: list[tuple[ast.AST, str]] = [(tree, module)]
    while todo:
        node, name = todo.pop()
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield name, text
        for child in ast.iter_child_nodes(node):
            own = getattr(child, "name", None) if isinstance(child, documented) else None
            todo.append((child, f"{name}.{own}" if own else name))
