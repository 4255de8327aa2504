"""Sidecars whose disk is a small volume of their own, which fills up, or cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    Launch = Callable[..., Any]
    ClientOf = Callable[[str], Any]

HANG_GUARD = 30.0
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
TEXTS = [f"text {number}" for number in range(20)]


def can_mount() -> bool:
    """Whether this user may mount something that others do not see."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not can_mount(), reason="needs the right to mount a volume in a namespace of its own (root)"
)


class Volume:
    """A sidecar without memory of its own, and the volume of 4 MiB that its disk tier is on."""

    def __init__(self, launch: Launch, place: Path, options: str = "rw") -> None:
        mount = f"mount -t tmpfs -o size=4m,{options} none {place}"
        script = f'{mount} && exec "$@"'
        place.mkdir(exist_ok=True)
        self._process = launch(
            behind=["unshare", "--mount", "sh", "-c", script, "sh"],
            disk_folder=place / "cache",
            disk_max_bytes=2**24,
            hot_max_bytes=0,
        )
        self.address = self._process.wait_until_it_serves()[0]
        # As the process sees it.
        self.seen = Path(f"/proc/{self._process.popen.pid}/root{place}")

    def events(self) -> list[tuple[str, str]]:
        """Of each change of a breaker's state, what changed and how."""
        told = [event for event in self._process.events if "circuit" in event["event"]]
        return [(each["service"], each["event"].rpartition(" ")[2]) for each in told]

    def remount(self, options: str) -> None:
        """Mounts the volume with other options."""
        target = ["nsenter", f"--mount=/proc/{self._process.popen.pid}/ns/mnt"]
        place = str(self.seen).partition("/root")[2]
        subprocess.run([*target, "mount", "-o", f"remount,{options}", place], check=True)


async def dropped(client: Any) -> int:
    return int((await client.stats()).disk.writes_dropped)


async def until_stored(client: Any, text: str) -> None:
    """Asks for a text until the disk has it."""
    async with asyncio.timeout(HANG_GUARD):
        while await client.tiers(text) != ["DISK"]:
            await asyncio.sleep(0.02)


async def test_a_volume_that_fills_up_takes_no_more_until_there_is_room_and_loses_nothing(
    launch: Launch, client_of: ClientOf, tmp_path: Path
) -> None:
    volume = Volume(launch, tmp_path / "volume")
    client = client_of(volume.address)
    await client.embed(*TEXTS)
    await client.on_disk(len(TEXTS))
    vectors = await client.vectors(*TEXTS)
    with (volume.seen / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(2**16))
    number = 0
    async with asyncio.timeout(HANG_GUARD):
        while ("disk writes", "opened") not in volume.events():
            assert await client.tiers(f"new {number}") == ["COMPUTED"]
            number += 1
    assert await dropped(client) >= 5
    # It can still be read.
    assert await client.tiers(*TEXTS) == ["DISK"] * len(TEXTS)
    os.unlink(volume.seen / "filler")
    await until_stored(client, "newer")
    assert await client.vectors(*TEXTS) == vectors
    assert volume.events() == [("disk writes", "opened"), ("disk writes", "closed")]
    stats = await client.stats()
    assert (stats.disk.corrupt_files, stats.disk.errors) == (0, 0)


async def test_a_volume_that_cannot_be_written_at_the_start_is_used_when_it_can_be(
    launch: Launch, client_of: ClientOf, tmp_path: Path
) -> None:
    volume = Volume(launch, tmp_path / "volume", options="ro")
    client = client_of(volume.address)
    for _ in range(20):
        assert await client.tiers("a text") == ["COMPUTED"]
    assert {event for _, event in volume.events()} == {"opened"}
    volume.remount("rw")
    await until_stored(client, "a text")
