"""What cannot start says why, in one line and without a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sidecar.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://x", "is no address of an index"),
        ("memory://folder", "with three slashes"),
    ],
)
def test_an_index_that_cannot_be_opened_is_told(
    url: str, says: str, monkeypatch: pytest.MonkeyPatch, minilm_folder: Path
) -> None:
    monkeypatch.setenv("EMBERCACHE_INDEX_URL", url)
    monkeypatch.setenv("EMBERCACHE_REDIS_URL", "unix:///nowhere/redis.sock")
    command = ["serve", "--server-address", "127.0.0.1:0", "--model-packs", str(minilm_folder)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output
