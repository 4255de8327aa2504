"""What `make run` shows, on a small corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def demo(minilm_folder: Path, tmp_path: Path) -> str:
    """What the demonstration prints; it leaves no process and no file."""
    environment = os.environ | {
        "EMBERCACHE_MODEL_FOLDER": str(minilm_folder.parent),
        "TMPDIR": str(tmp_path),
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
    assert list(tmp_path.glob("embercache-*")) == []
    here = str(tmp_path)
    left = [p for p in psutil.process_iter(["cmdline"]) if here in str(p.info["cmdline"])]
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
