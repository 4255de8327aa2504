"""What `make run` shows, on a small corpus."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


@pytest.fixture
def demo(minilm_folder: Path) -> Iterator[str]:
    """What the demonstration prints; it leaves no process and no file."""
    # The path of a socket must be short, which those of `tmp_path` are not.
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:
        yield _run_in(Path(folder), minilm_folder)


def _run_in(folder: Path, minilm_folder: Path) -> str:
    environment = os.environ | {
        "EMBERCACHE_MODEL_FOLDER": str(minilm_folder.parent),
        "TMPDIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo", "--items", "40"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("embercache-*")) == []
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"])]
    assert left == []
    return done.stdout


def test_the_demonstration_shows_each_tier_and_what_the_vectors_mean(demo: str) -> None:
    passes = {words[1]: words for line in demo.splitlines() if (words := line.split())[:1] == ["│"]}
    assert passes["cold"][3:5] == ["40", "computed"]
    assert passes["warm"][3:5] == ["40", "warm"]
    assert passes["hot"][3:5] == ["40", "hot"]
    assert "40 of 40 vectors are the same in all passes, bit by bit" in demo
    assert "measure how long a piece of code takes" in demo
    assert "Next steps" in demo
