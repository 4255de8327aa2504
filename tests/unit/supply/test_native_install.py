"""The native front door is built where Rust is, and only there; the sidecar does without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDED = "1.88"


class Environment:
    """Stands for one of Python, and for Rust: what is run of it is in ``log``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "venv"
        self.tools = folder / "tools"
        self.mark = self.folder / ".native"
        self._log = folder / "log"
        self._log.touch()
        (self.folder / "bin").mkdir(parents=True)
        self.tools.mkdir()
        # No others: there may be a Rust beside them.
        for name in ("cut", "dirname", "head", "mktemp", "rm", "sed", "sort", "touch"):
            (self.tools / name).symlink_to(shutil.which(name) or name)
        self._program(self.folder / "bin" / "python", "")
        self._program(
            self.folder / "bin" / "maturin",
            'while [ "$1" != --out ]; do shift; done; touch "$2/embercache_native-0-abi3.whl"',
        )

    def with_rust(self, version: str) -> None:
        self._program(self.tools / "cargo", "")
        self._program(self.tools / "rustc", f"echo 'rustc {version} (0123abcd 2026-01-01)'")

    def install(self) -> str:
        """What it says."""
        return subprocess.run(
            [ROOT / "native" / "install.sh", self.folder],
            env={"PATH": str(self.tools)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    @property
    def log(self) -> list[str]:
        return self._log.read_text("utf-8").splitlines()

    def _program(self, path: Path, script: str) -> None:
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> {self._log}\n{script}\n', "utf-8")
        path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_without_rust_it_says_in_one_line_what_that_costs(environment: Environment) -> None:
    (line,) = environment.install().splitlines()
    assert line == (
        f"no Rust {NEEDED} or later (none): the sidecar does without its native front door, and a"
        " hot hit costs several times as much"
    )
    assert not environment.mark.exists()  # it is said, and tried, the next time too


def test_an_older_rust_is_as_good_as_none(environment: Environment) -> None:
    environment.with_rust("1.9.0")
    assert f"no Rust {NEEDED} or later (1.9.0)" in environment.install()
    assert not [line for line in environment.log if "maturin" in line]


def test_without_rust_one_that_was_built_from_other_sources_is_removed(
    environment: Environment,
) -> None:
    environment.install()
    assert environment.log == ["python -m pip uninstall -q -y embercache-native"]


@pytest.mark.parametrize("version", [f"{NEEDED}.0", "1.100.1"])
def test_with_rust_it_is_built_from_the_lock_and_installed_without_asking_for_more(
    environment: Environment, version: str
) -> None:
    environment.with_rust(version)
    environment.install()
    _, build, install = environment.log
    assert "maturin build" in build
    assert "--locked" in build
    assert "pip install -q --no-index --no-deps" in install
    assert install.endswith("embercache_native-0-abi3.whl")
    assert environment.mark.exists()
