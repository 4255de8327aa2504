"""The file of keys: what may be in it, and that it may be replaced while a sidecar runs."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import sidecar.files_in_use
from sidecar.cache.key_ring import KeyFile, KeyRingError, read_key_ring
from sidecar.files_in_use import FilesError
from sidecar.telemetry.reload_metrics import ReloadCollector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

ONE, TWO = bytes(range(32)), bytes(range(32, 64))


def line(name: str, key: bytes) -> str:
    return f"{name}:{base64.b64encode(key).decode()}"


def replace(file: Path, text: str) -> None:
    """As an editor does: never half of it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_the_first_key_seals_and_all_are_known() -> None:
    ring = read_key_ring(f"# of this year\n\n  {line('k-2', TWO)}  \n{line('k_1', ONE)}\n".encode())
    assert (ring.first, ring.keys) == ("k-2", {"k-2": TWO, "k_1": ONE})


def test_a_key_never_shows() -> None:
    assert repr(read_key_ring(line("k1", ONE).encode())) == "KeyRing(first='k1')"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "there is no key in it"),
        ("# nothing\n", "there is no key in it"),
        (f"{line('k1', ONE)}\nk2", "line 2: write ID:BASE64"),
        (base64.b64encode(ONE).decode(), "line 1: write ID:BASE64"),
        (line("k1", ONE[:31]), "line 1: write ID:BASE64"),
        (line("k1", ONE + b"1"), "line 1: write ID:BASE64"),
        (line("k1", ONE)[:-1] + "!", "line 1: write ID:BASE64"),
        (line("", ONE), "line 1: write ID:BASE64"),
        (line("k 1", ONE), "line 1: write ID:BASE64"),
        (line("k" * 17, ONE), "line 1: write ID:BASE64"),
        (f"{line('k1', ONE)}\n{line('k1', TWO)}", "line 2: another key has the same id"),
        (f"\N{KEY}{line('k1', ONE)}", "other characters than ASCII"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_shows_no_key(
    file: Path, content: str, problem: str
) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(KeyRingError, match=problem) as error:
        read_key_ring(content.encode())
    with pytest.raises(FilesError, match=problem) as told:
        KeyFile(file)
    assert str(told.value) == f"{file}: {error.value}"
    assert base64.b64encode(ONE).decode()[:10] not in str(told.value)


def test_a_file_that_is_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(FilesError, match=f"cannot read {file}: No such file"):
        KeyFile(file)


@pytest.fixture
async def keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyFile]:
    """A file with the key k1, which is followed."""
    monkeypatch.setattr(sidecar.files_in_use, "LOOK_SECONDS", 0.001)
    file.write_text(line("k1", ONE))
    keys = KeyFile(file)
    following = asyncio.create_task(keys.follow())
    await asyncio.sleep(0)
    yield keys
    following.cancel()
    await asyncio.wait({following})


async def test_the_keys_are_those_that_the_file_holds_now(
    file: Path, keys: KeyFile, eventually: Eventually
) -> None:
    ring = keys.ring
    assert keys.ring is ring
    replace(file, f"{line('k2', TWO)}\n{line('k1', ONE)}")
    with capture_logs() as logs:
        await eventually(lambda: keys.ring is not ring)
    assert keys.ring == read_key_ring(file.read_bytes())
    assert [(log["seals"], log["opens"]) for log in logs] == [("k2", ["k2", "k1"])]
    assert keys.failures == {"keys": 0}


async def test_a_file_that_is_spoilt_meanwhile_changes_nothing_and_is_counted_once(
    file: Path, keys: KeyFile, eventually: Eventually
) -> None:
    ring = keys.ring
    registry = CollectorRegistry()
    collector = ReloadCollector()
    collector.show(keys.failures)
    registry.register(collector)
    with capture_logs() as logs:
        replace(file, "half of")
        await eventually(lambda: logs)
        file.unlink()
        await eventually(lambda: len(logs) == 2)
    assert keys.ring is ring
    assert [log["log_level"] for log in logs] == ["error"] * 2
    assert str(file) in logs[0]["reason"]
    name, labels = "embercache_reload_failures_total", {"file": "keys"}
    assert registry.get_sample_value(name, labels) == 2
