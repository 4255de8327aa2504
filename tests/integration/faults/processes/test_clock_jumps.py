"""A sidecar on a machine whose wall clock is set forward and back by hours while it serves."""

from __future__ import annotations

import asyncio
import mmap
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import embed_pb2
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Launch = Callable[..., Any]
    ClientOf = Callable[[str], Any]

HOUR = 3600
# In front of the C library: adds to the wall clock what the first bytes of a file say.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *ahead;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("SECONDS_AHEAD"), O_RDONLY);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *ahead;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="needs gcc, to put a clock of its own under a process"
)


class WallClock:
    """The wall clock of the processes that are started with its ``environment``."""

    def __init__(self, folder: Path) -> None:
        source, library, self._file = (folder / name for name in ("c.c", "clock.so", "ahead"))
        source.write_text(SHIM)
        build = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(build, check=True)
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        self.environment = {"LD_PRELOAD": str(library), "SECONDS_AHEAD": str(self._file)}

    def set(self, seconds: int) -> None:
        """Sets it so many seconds ahead of the time."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


async def until_on_disk(client: Any, text: str, **fields: Any) -> None:
    async with asyncio.timeout(20):
        while await client.tiers(text, **fields) != ["DISK"]:
            await asyncio.sleep(0.01)


async def test_a_clock_that_jumps_costs_computations_and_nothing_else(
    launch: Launch,
    client_of: ClientOf,
    wall_clock: WallClock,
    redis_server: DevRedis,
    tmp_path: Path,
) -> None:
    process = launch(
        environment={
            "EMBERCACHE_REDIS_URL": redis_server.url,
            "EMBERCACHE_INDEX_URL": "memory://",
            **wall_clock.environment,
        },
        redis_timeout="5s",
        disk_folder=tmp_path / "disk",
        hot_max_bytes=0,
        popular_queries=10,
    )
    client = client_of(process.wait_until_it_serves()[0])
    hour = {"ttl": Duration(seconds=HOUR)}
    document = {"input_type": embed_pb2.INPUT_TYPE_DOCUMENT}
    await client.upsert({"one": "a document"})
    await client.embed("for ever", **document)
    assert await client.tiers("text", **hour) == ["COMPUTED"]
    assert (await client.found("find"))[1] == ["one"]
    await until_on_disk(client, "text", **hour)
    await until_on_disk(client, "for ever", **document)

    # Two hours ahead: what lived an hour is over.
    wall_clock.set(2 * HOUR)
    assert await client.tiers("text", **hour) == ["COMPUTED"]
    assert await client.tiers("for ever", **document) == ["DISK"]
    assert await client.found("find") == ("COMPUTED", ["one"])

    # Five hours behind: what was made meanwhile is from the future.
    wall_clock.set(-5 * HOUR)
    assert await client.tiers("text", **hour) == ["COMPUTED"]
    assert await client.tiers("for ever", **document) == ["DISK"]
    assert (await client.embed("for ever", **document)).embeddings[0].age_ms == 0
    assert await client.found("find") == ("COMPUTED", ["one"])
    await client.embed("tagged", tags=["a tag"])
    await client.invalidate(tags=["a tag"])
    assert await client.tiers("tagged", tags=["a tag"]) == ["COMPUTED"]
    await client.upsert({"two": "a document"})
    assert sorted((await client.found("find"))[1]) == ["one", "two"]
    await client.invalidate()
    assert await client.tiers("for ever", **document) == ["COMPUTED"]
    await until_on_disk(client, "for ever", **document)

    # And right again.
    wall_clock.set(0)
    assert await client.tiers("for ever", **document) == ["DISK"]
    stats = await client.stats()
    assert stats.warm.errors == stats.disk.errors == 0
    process.terminate()
    assert process.wait() == 0
    assert {event["level"] for event in process.events} == {"info"}
