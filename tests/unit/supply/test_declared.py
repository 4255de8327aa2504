"""What the sidecar imports is declared: no package is there by grace of another one alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
OURS = {"sidecar", "embercache"}
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def plain(requirement: str) -> str:
    """The name of a distribution, as all ways to write it have it."""
    found = NAME.match(requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def declared(folder: Path) -> set[str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return {plain(each) for each in [*project["dependencies"], *(r for e in extras for r in e)]}


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers look at."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from at_run_time(node)


def imported(folder: Path) -> dict[str, Path]:
    """The packages of others that modules import, each with one module that does."""
    found: dict[str, Path] = {}
    for file in folder.rglob("*.py"):
        for node in at_run_time(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            found |= {name.partition(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("package", "project"), [("sidecar", "."), ("clients/python/embercache", "clients/python")]
)
def test_every_package_that_is_imported_is_declared(package: str, project: str) -> None:
    known = declared(ROOT / project)
    provided_by = packages_distributions()
    found = imported(ROOT / package)
    assert found
    for name, file in found.items():
        if name not in OURS:
            # The native front door may not be installed: it is built where Rust is.
            providers = provided_by.get(name, [name])
            assert known & set(map(plain, providers)), f"{file} imports {name}"
