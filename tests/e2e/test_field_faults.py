"""Faults that caches of model answers are known for, each a test under its name."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import structlog
from embercache.v1 import cache_pb2, common_pb2, embed_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0
INTERNAL = grpc.StatusCode.INTERNAL.value[0]
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
NAN, CRASH = "\N{SKULL AND CROSSBONES}", "\N{HIGH VOLTAGE SIGN}"

TEXTS = [f"text {number}" for number in range(12)]
BAD = {f"nan {NAN}": INTERNAL, f"crash {CRASH}": INTERNAL, "x" * 200: INVALID}


@pytest.fixture
async def sidecar(start: Start) -> Sidecar:
    server = {"address": "127.0.0.1:0", "drain_delay": 0, "max_text_bytes": 100}
    return await start(server=server)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_a_partial_batch_hit_shifts_no_vector(sidecar: Sidecar, data: st.DataObject) -> None:
    """Some items of a batch are cached, some are not, some fail, some stand there twice.

    Elsewhere, answers then move to the place of a neighbour, or the failed are left out.
    """
    namespace = f"n{data.draw(st.integers(0, 10**9))}"
    cached = data.draw(st.lists(st.sampled_from(TEXTS), max_size=8))
    if cached:
        await sidecar.embed(*cached, namespace=namespace)
    batch = data.draw(st.lists(st.sampled_from([*TEXTS, *BAD]), min_size=1, max_size=16))
    truth = dict(zip(TEXTS, await sidecar.vectors(*TEXTS, namespace="truth"), strict=True))
    for _ in range(2):
        embeddings = (await sidecar.embed(*batch, namespace=namespace)).embeddings
        assert len(embeddings) == len(batch)
        for text, embedding in zip(batch, embeddings, strict=True):
            if text in BAD:
                assert embedding.error.code == BAD[text]
                assert not embedding.vector
            else:
                got, expected = (np.frombuffer(v, "<f4") for v in (embedding.vector, truth[text]))
                assert np.allclose(got, expected, atol=1e-6)


def change(pack: Path, name: str, content: object) -> None:
    (pack / name).parent.mkdir(exist_ok=True)
    (pack / name).write_text(json.dumps(content))


def without_normalisation(pack: Path) -> None:
    kinds = ("Transformer", "Pooling")
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    change(pack, "modules.json", modules)


def with_another_tokenizer(pack: Path) -> None:
    tokenizer = json.loads((pack / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"] = {"type": "Prepend", "prepend": ">"}
    change(pack, "tokenizer.json", tokenizer)


CHANGES: dict[str, Callable[[Path], None]] = {
    "pooling": lambda pack: change(pack, "1_Pooling/config.json", {"pooling_mode": "cls"}),
    "tokenizer": with_another_tokenizer,
    "normalisation": without_normalisation,
    "length": lambda pack: change(pack, "sentence_bert_config.json", {"max_seq_length": 5}),
    "prompt": lambda pack: change(
        pack, "config_sentence_transformers.json", {"prompts": {"query": "other: "}}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_the_key_omits_nothing_of_the_model_that_changes_the_vector(
    what: str,
    start: Start,
    make_pack: Callable[..., Path],
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    """The same name, the same graph, but pooled, normalised, cut or prefixed in another way.

    Elsewhere, only the text and the model's name are in the key.
    """
    before = make_pack("before", prompts={"query": "find: "})
    after = make_pack("after", prompts={"query": "find: "})
    CHANGES[what](after)
    query = {"input_type": embed_pb2.INPUT_TYPE_QUERY}
    one = await start(packs=[before], redis=redis_server)
    old = await one.vectors("a long text", **query)
    await eventually(view(redis_server).entries)
    two = await start(packs=[after], redis=redis_server)
    assert await two.tiers("a long text", **query) == ["COMPUTED"]
    assert await two.vectors("a long text", **query) != old
    copy = shutil.copytree(before, before.parent / "copy" / "tiny")
    again = await start(packs=[copy], redis=redis_server)
    assert await again.vectors("a long text", **query) == old
    assert await again.computed() == 0


async def test_the_key_omits_nothing_of_the_request_that_changes_the_vector(
    start: Start, make_pack: Callable[..., Path]
) -> None:
    """The same text as a query, as a document, and for another model.

    Elsewhere, whoever comes first decides what the others get.
    """
    prompts = {"query": "find: ", "document": "text: "}
    sidecar = await start(
        packs=[make_pack("a", prompts=prompts), make_pack("b", "other", prompts=prompts, seed=5)]
    )
    seen = set()
    for model in ("tiny", "other"):
        for kind in (0, embed_pb2.INPUT_TYPE_QUERY, embed_pb2.INPUT_TYPE_DOCUMENT):
            fields = {"model": model, "input_type": kind}
            assert await sidecar.tiers("a text", **fields) == ["COMPUTED"]
            seen.update(await sidecar.vectors("a text", **fields))
    assert len(seen) == 6


async def test_joined_keys_do_not_collide(start: Start) -> None:
    """Parts of a key that are joined with a delimiter, or without one, can mean two things."""
    sidecar = await start()

    def entity(name: str, chunk: str) -> embed_pb2.Input:
        return embed_pb2.Input(entity=embed_pb2.Entity(id=name, chunk_id=chunk, text="same"))

    parts = ["a", "a:", ":a", "a:b", "a\0", "\0a", "a\x00b", "a b", "1", "11", "(", "('a',"]
    batch = [entity(name, chunk) for name in parts for chunk in ["", *parts]]
    assert await sidecar.tiers(*batch) == ["COMPUTED"] * len(batch)
    assert await sidecar.tiers("a", tags=["b", "cd"]) == ["COMPUTED"]
    for tags in (["bc", "d"], ["b,cd"], ["bcd"], ["b"], []):
        assert await sidecar.tiers("a", tags=tags) == ["COMPUTED"]
    for namespace, text in (("n.a", "b"), ("n", "ab"), ("n.ab", ""), ("n.", "ab")):
        assert await sidecar.tiers(text, namespace=namespace) == ["COMPUTED"]


async def test_the_same_request_has_the_same_key_however_it_is_written(start: Start) -> None:
    """Defaults that are spelt out, fields in another order, unknown fields: elsewhere, misses."""
    sidecar = await start()
    await sidecar.embed("one", "two", tags=["a", "b"])
    raw = sidecar.channel.unary_unary("/embercache.v1.EmbedService/Embed")
    full = sidecar.request(
        "one",
        "two",
        tags=["b", "a", "b"],
        model="tiny",
        namespace="default",
        encoding=embed_pb2.ENCODING_FLOAT32,
        truncation=embed_pb2.TRUNCATION_END,
        mode=common_pb2.CACHE_MODE_DEFAULT,
    )
    inputs = embed_pb2.EmbedRequest(inputs=full.inputs).SerializeToString()
    rest = embed_pb2.EmbedRequest()
    rest.CopyFrom(full)
    del rest.inputs[:]
    unknown_field = b"\xfa\x3e\x03new"
    for written in (
        full.SerializeToString(),
        rest.SerializeToString() + inputs,
        inputs + rest.SerializeToString() + unknown_field,
    ):
        answer = embed_pb2.EmbedResponse.FromString(await raw(written, timeout=HANG_GUARD))
        assert [e.tier for e in answer.embeddings] == [common_pb2.TIER_HOT] * 2
    assert await sidecar.tiers("two", tags=["a", "b"]) == ["HOT"]
    assert await sidecar.computed() == 2


async def test_nothing_leaks_from_one_tenant_to_another(
    start: Start, held_model: HeldModel, redis_server: DevRedis, tmp_path: Path
) -> None:
    """Who asks is left out of the key of one of the tiers, or of what is being computed."""
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    calls = [asyncio.create_task(sidecar.tiers("a text", namespace=n)) for n in ("a", "b")]
    await asyncio.sleep(0)
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    assert await asyncio.gather(*calls) == [["COMPUTED"], ["COMPUTED"]]
    only = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
    for _ in range(3):  # of items, then whole
        assert await sidecar.tiers("a text", namespace="a") == ["HOT"]
        assert await sidecar.tiers("a text", namespace="c", **only) == ["ERROR"]
    for disk, tier in ((tmp_path / "disk", "DISK"), (None, "WARM")):
        await sidecar.stop()
        sidecar = await start(redis=redis_server, disk=disk)
        assert await sidecar.tiers("a text", namespace="c", **only) == ["ERROR"]
        assert await sidecar.tiers("a text", namespace="a", **only) == [tier]


async def test_keys_of_two_tenants_do_not_show_that_they_asked_the_same(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    """Equal digests in a shared store tell a tenant what another one has asked."""
    sidecar = await start(redis=redis_server, cache={"salt": "a secret"})
    for namespace in ("a", "b"):
        await sidecar.embed("a text", namespace=namespace)
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    digests = {key.rpartition(b":")[2] for key in view(redis_server).entries()}
    assert len(digests) == 2


async def test_truncated_texts_are_told_apart_and_said_to_be_truncated(start: Start) -> None:
    """Two texts that differ behind the last token that is read have the same vector."""
    sidecar = await start()
    one, two = "x" * 64 + "yes", "x" * 64 + "no"
    assert await sidecar.tiers(one, two) == ["COMPUTED", "COMPUTED"]
    first, second = (await sidecar.embed(one, two)).embeddings
    assert first.vector == second.vector
    assert first.truncated
    assert second.truncated
    refused = await sidecar.embed(one, truncation=embed_pb2.TRUNCATION_ERROR)
    assert refused.embeddings[0].error.code == INVALID


async def test_a_batch_costs_one_round_trip_to_redis_and_a_hot_one_none(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    """A lookup for each item makes a cache slower than none."""
    seen = view(redis_server)
    texts = [f"text {number}" for number in range(300)]
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await one.embed("first")
    await eventually(seen.entries)
    before = seen.calls("mget")
    await one.embed(*texts)
    assert seen.calls("mget") == before + 1
    await eventually(lambda: len(seen.entries()) == 301)
    assert await two.tiers(*texts) == ["WARM"] * 300
    assert seen.calls("mget") == before + 2
    lookups = [seen.calls(command) for command in ("mget", "get", "set", "eval", "hmget")]
    assert await two.tiers(*texts) == await one.tiers(*texts) == ["HOT"] * 300
    assert [seen.calls(c) for c in ("mget", "get", "set", "eval", "hmget")] == lookups


async def test_calls_at_the_same_time_share_their_round_trips(
    start: Start, own_redis: DevRedis, view: View
) -> None:
    """One round trip for each of many callers keeps a busy Redis from answering any in time."""
    sidecar = await start(redis=own_redis)
    await sidecar.embed("first")
    before = view(own_redis).calls("mget")
    own_redis.freeze()
    calls = [asyncio.create_task(sidecar.embed(f"text {number}")) for number in range(200)]
    await asyncio.sleep(0)
    await sidecar.stats()
    own_redis.thaw()
    await asyncio.gather(*calls)
    assert view(own_redis).calls("mget") - before <= 50


async def test_an_encoder_batch_is_bounded_in_tokens(start: Start, held_model: HeldModel) -> None:
    """All that waits in one batch, however long its texts, and the machine is out of memory."""
    held_model.let_go()
    sidecar = await start(encoder={"batch_tokens": 160})
    long = [f"{number} ".ljust(64, "x") for number in range(50)]
    short = [f"{number}" for number in range(10, 60)]
    assert await sidecar.tiers(*long, *short) == ["COMPUTED"] * 100
    stats = (await sidecar.stats()).models[0]
    assert sum(held_model.sizes) == 100
    # Two of the long texts fit a run, so there must have been many, none of more than its share.
    assert len(held_model.sizes) >= 25
    assert stats.tokens + stats.padding_tokens <= 160 * len(held_model.sizes)
    assert max(held_model.sizes) <= 80


async def test_a_cancelled_leader_neither_fails_nor_hangs_its_followers(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    """Who came first computes for all; when he goes away, the others wait for ever, or fail."""
    sidecar = await start()
    leader = asyncio.create_task(sidecar.embed("a text"))
    await eventually(lambda: held_model.sizes)
    followers = [asyncio.create_task(sidecar.tiers("a text")) for _ in range(10)]
    await asyncio.sleep(0)
    for _ in range(5):
        await sidecar.stats()
    leader.cancel()
    await asyncio.wait({leader})
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    assert await asyncio.gather(*followers) == [["COALESCED"]] * 10
    assert held_model.sizes == [1]


async def test_an_outage_does_not_look_like_a_miss(start: Start, own_redis: DevRedis) -> None:
    """A store that is down answers "not found" to everything, and nobody notices; or the log does.

    Here both are counted apart, and when the state changes the log says once what goes without
    Redis now.
    """
    sidecar = await start(redis=own_redis)
    await sidecar.embed("a text")
    with structlog.testing.capture_logs() as logs:
        own_redis.kill()
        for number in range(100):
            await sidecar.embed(f"text {number}")
    warm = (await sidecar.stats()).warm
    assert warm.state == cache_pb2.WarmState.STATE_DOWN
    assert warm.errors + warm.skipped >= 100
    assert warm.skipped > 90
    told = [(line["event"], line.get("service")) for line in logs]
    assert ("circuit breaker opened", "redis") in told
    assert len(set(told)) == len(told)


async def test_a_recomputation_that_differs_slightly_does_not_change_what_is_served(
    start: Start, noisy_pack: Path, redis_server: DevRedis
) -> None:
    """The size of a batch, or the hardware, changes the last bits of a vector.

    What was stored first is what all tiers serve, to the bit.
    """
    sidecar = await start(packs=[noisy_pack], redis=redis_server)
    (first,) = await sidecar.vectors("a text")
    assert await sidecar.vectors("a text", mode=common_pb2.CACHE_MODE_BYPASS) != [first]
    assert (await sidecar.vectors("a text", "another"))[0] == first
    await sidecar.stop()
    other = await start(packs=[noisy_pack], redis=redis_server)
    assert await other.vectors("a text") == [first]


async def test_no_port_is_fixed_so_two_sidecars_fit_one_machine(start: Start) -> None:
    """A port of metrics that cannot be changed, or that is opened unasked, clashes inside a pod."""

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def page(port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            text: str = response.read().decode()
        return text

    ports = free_port(), free_port()
    sidecars = [
        await start(
            server={
                "address": "127.0.0.1:0",
                "metrics_address": f"127.0.0.1:{port}",
                "drain_delay": 0,
            }
        )
        for port in ports
    ]
    for number, (sidecar, port) in enumerate(zip(sidecars, ports, strict=True), 1):
        await sidecar.embed(*(f"text {i}" for i in range(number)))
        assert f'model_inputs_total{{model="tiny"}} {number}.0' in await asyncio.to_thread(
            page, port
        )


async def test_a_stored_answer_lacks_nothing_of_the_first_one(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    """An answer from cache that has lost its usage or its flags is another answer."""
    fields = ("vector", "model_version", "tokens", "truncated")

    def told(response: embed_pb2.EmbedResponse) -> Any:
        whole = (response.model, response.dimensions, response.encoding)
        return whole, [[getattr(e, name) for name in fields] for e in response.embeddings]

    texts = ("short", "long " * 50)
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    first = told(await sidecar.embed(*texts))
    assert told(await sidecar.embed(*texts)) == first
    assert told(await sidecar.embed(*texts)) == first
    for disk in (tmp_path / "disk", None):
        await sidecar.stop()
        sidecar = await start(redis=redis_server, disk=disk)
        assert told(await sidecar.embed(*texts)) == first
        assert await sidecar.computed() == 0
