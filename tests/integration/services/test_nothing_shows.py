"""What leaves the process shows no text of users: everything in Redis, on disk and in logs."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import redis
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2

from sidecar.cache.keys import UNSALTED
from sidecar.cache.sealing import FORMAT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 60.0
ENTRIES = (b"embed", b"search", b"rerank", b"generate", b"prefix")
MARK = "quartz"
ON = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON)
# Long enough to have whole blocks.
PROMPT = f"My {MARK} is blue, and so is the sky above the hills where nobody has ever been. " * 2


def mark(what: str) -> str:
    """A text that only this test has."""
    return f"{what} {MARK} {what}"


TAG, DOCUMENT_TAG, COLLECTION = f"{MARK}-tag", f"{MARK}-document-tag", f"{MARK}-collection"


async def make_calls_of_every_kind(client: Any) -> list[bytes]:
    """Calls with marks wherever a caller can put one; returns vectors that came back."""
    entity = embed_pb2.Input(entity=embed_pb2.Entity(id=mark("entity"), text=mark("of it")))
    vectors = await client.vectors(mark("text"), entity, tags=[TAG])
    vectors += await client.vectors(mark("popular query"))
    requests = iter([client.request(mark("streamed"))])
    async for _ in client.embeds.EmbedStream(requests, timeout=HANG_GUARD):
        pass
    await client.upsert(
        {mark("id"): mark("content"), mark("other"): mark("more")},
        tags=[DOCUMENT_TAG],
        metadata={f"{MARK}_key": mark("value")},
        collection=COLLECTION,
    )
    equal = search_pb2.Filter.Equal(
        key=f"{MARK}_key", value=search_pb2.MetadataValue(text=mark("value"))
    )
    await client.search(
        mark("query"),
        collection=COLLECTION,
        filter=search_pb2.Filter(equal=equal),
        rerank=search_pb2.Rerank(),
        semantic=ON,
        tags=[TAG],
    )
    await client.searches.Rerank(
        search_pb2.RerankRequest(query=mark("ranked"), passages=[mark("passage")])
    )
    embed = client.request(mark("warmed"))
    async for _ in client.caches.Warm(cache_pb2.WarmRequest(embed=embed), timeout=HANG_GUARD):
        pass
    await client.upsert({mark("id"): mark("changed")}, collection=COLLECTION)
    await client.delete(mark("other"), collection=COLLECTION)
    await client.invalidate(tags=[TAG])
    await client.invalidate(inputs=[mark("streamed")])
    documents = cache_pb2.InvalidateRequest.Documents(collection=COLLECTION, ids=[mark("id")])
    await client.caches.Invalidate(cache_pb2.InvalidateRequest(documents=documents))
    event = cache_pb2.Event(
        type=cache_pb2.Event.TYPE_UPDATED, collection=COLLECTION, ids=[mark("id")], tags=[TAG]
    )
    await client.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=[event]))
    for bad in (
        client.request(mark("bad"), namespace=mark("namespace")),
        client.request(mark("bad"), model=mark("model")),
        client.request(mark("bad"), tags=["t" * 300 + MARK]),
        client.request(mark("bad"), model_version=mark("version")),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await client.embeds.Embed(bad, timeout=HANG_GUARD)
    # What is invalidated is not kept for ever, so that there is something to look at.
    await client.vectors(mark("text"), tags=[TAG])
    return list(vectors)


async def generate(client: Any) -> None:
    """Answers, and prompts that are long enough for their blocks to be kept."""
    await client.generate(PROMPT, max_tokens=4, temperature=0, semantic=ON, stop=[MARK])
    chat = [("system", PROMPT), ("user", mark("question"))]
    async for _ in client.stream(chat, max_tokens=4, temperature=0):
        pass


def everything_in(client: Any) -> dict[bytes, bytes]:
    """All keys of a Redis, each with all that it holds."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"hash": lambda key: [part for pair in client.hgetall(key).items() for part in pair],
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": lambda key: [
            part for _, fields in client.xrange(key) for pair in fields.items() for part in pair
        ],
    }
    held = {}
    for key in client.scan_iter(count=1000):
        value = read[client.type(key)](key)
        held[key] = value if isinstance(value, bytes) else b"\n".join(value)
    return held


def kinds_of(held: dict[bytes, bytes]) -> set[bytes]:
    """What there is in Redis: kinds of entries, and names of records."""
    parts = {key: key.removeprefix(b"embercache:").split(b":") for key in held}
    return {p[1] if p[0] == b"{state}" else p[0] for p in parts.values()}


def guesses() -> list[bytes]:
    """Digests that somebody could compute who guesses a text, but does not have the salt."""
    raw = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=mark("popular query"))])
    digests = [
        UNSALTED.of(b"tag", TAG.encode()),
        UNSALTED.of(b"tag", DOCUMENT_TAG.encode()),
        UNSALTED.of(b"collection", COLLECTION.encode()),
        UNSALTED.of(b"default", b"embed", raw.SerializeToString()),
        UNSALTED.of(b"document", mark("id").encode())[:8],
    ]
    return [form for each in digests for form in (each, each.hex().encode())]


def shown(held: bytes, vectors: list[bytes]) -> list[str]:
    """What of the texts and vectors of users can be found."""
    marked = MARK.encode()
    found = [f"text {form!r}" for form in (marked, marked.hex().encode()) if form in held]
    found += [f"vector {vector[:4].hex()}" for vector in vectors if vector in held]
    return found + [f"guess {guess!r}" for guess in guesses() if guess in held]


@pytest.fixture
def view(redis_server: DevRedis) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Start:
    """Starts sidecars that keep everything that can be kept."""

    async def start_sidecar(*, encrypts: bool, **sections: Any) -> Any:
        (tmp_path / "keys").write_text(f"k1:{base64.b64encode(os.urandom(32)).decode()}")
        (tmp_path / "salt").write_text("a long secret")
        if encrypts:
            sections["encryption"] = {"keys_file": tmp_path / "keys"}
            sections["cache"] = {"salt_file": tmp_path / "salt"}
        return await start(
            disk=tmp_path / "disk",
            prefix={"shared": True},
            popular={"queries": 100},
            **sections,
        )

    return start_sidecar


def on_disk(folder: Path) -> bytes:
    """All files of a sidecar, with the names that it gave them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"entries.db"}
    return b"\n".join(str(file).encode() + file.read_bytes() for file in files)


def values_on(folder: Path) -> list[bytes]:
    """The values of a disk tier."""
    with contextlib.closing(sqlite3.connect(folder / "entries.db")) as db:
        values = [value for (value,) in db.execute("SELECT value FROM entries")]
    assert values
    return values


@pytest.mark.threat("Who reads Redis reads texts or vectors")
@pytest.mark.threat("Who reads Redis tests guesses of texts against the keys")
async def test_nothing_in_redis_on_disk_or_in_logs_shows_what_users_said(
    begin: Start,
    redis_server: DevRedis,
    view: Any,
    tmp_path: Path,
    smollm2_folder: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    generator = {"packs": [str(smollm2_folder)]}
    client = await begin(encrypts=True, redis=redis_server, generator=generator)
    await generate(client)
    vectors = await make_calls_of_every_kind(client)
    await client.stop()
    held = everything_in(view)
    assert kinds_of(held) >= {
        *ENTRIES,
        *(b"semantic", b"popular", b"popular-requests", b"invalidations", b"namespace"),
    }
    values = [held[key] for key in held if key.split(b":")[1] in ENTRIES]
    values += values_on(tmp_path / "disk") + values_on(tmp_path / "disk" / "prompts")
    assert {value[0] for value in values} == {FORMAT}
    names = b"\n".join(held)
    assert shown(names + b"\n".join(held.values()), vectors) == []
    assert shown(on_disk(tmp_path / "disk"), vectors) == []
    captured = capfd.readouterr()
    logs = (captured.out + captured.err + caplog.text).encode()
    assert b"serving" in logs
    assert shown(logs, vectors) == []


@pytest.mark.threat("Who reads the disk reads texts or vectors")
async def test_nothing_on_the_disk_of_a_sidecar_without_redis_shows_what_users_said(
    begin: Start, tmp_path: Path
) -> None:
    client = await begin(encrypts=True)
    vectors = await make_calls_of_every_kind(client)
    await client.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "disk" / "generations.db")) as db:
        fields = [field for (field,) in db.execute("SELECT field FROM generations")]
    assert any(len(field) == 16 for field in fields)
    assert shown(on_disk(tmp_path / "disk"), vectors) == []


async def test_without_encryption_texts_vectors_and_guesses_can_be_found(
    begin: Start, redis_server: DevRedis, view: Any, tmp_path: Path
) -> None:
    client = await begin(encrypts=False, redis=redis_server)
    vectors = await make_calls_of_every_kind(client)
    await client.stop()
    held = b"\n".join(everything_in(view).values())
    found = {each.partition(" ")[0] for each in shown(held, vectors)}
    assert found == {"text", "vector", "guess"}
    assert shown(on_disk(tmp_path / "disk"), vectors)
