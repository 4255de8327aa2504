"""What cannot start says why, in one line and without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://x", "is no address of an index"),
        ("memory://folder", "with three slashes"),
    ],
)
def test_an_index_that_cannot_be_opened_is_told(url: str, says: str, minilm_folder: Path) -> None:
    command = [sys.executable, "-m", "sidecar", "serve", "--server-address", "127.0.0.1:0"]
    command += ["--model-packs", str(minilm_folder), "--log-level", "error"]
    environment = os.environ | {
        "EMBERCACHE_INDEX_URL": url,
        "EMBERCACHE_REDIS_URL": "unix:///nowhere/redis.sock",
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
