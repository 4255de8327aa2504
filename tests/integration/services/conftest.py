"""Whole sidecars in this process, with small real models, called over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import redis
from embercache.v1 import (
    cache_pb2,
    cache_pb2_grpc,
    common_pb2,
    embed_pb2,
    embed_pb2_grpc,
    generate_pb2,
    generate_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from onnx import TensorProto, helper
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

import sidecar.models.local
from sidecar.app import App
from sidecar.config import Settings
from sidecar.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.dev_redis import DevRedis
    from sidecar.models.encoder import Encodable

HANG_GUARD = 30.0
DIMENSIONS = 8
MAX_TOKENS = 64
# A text with the first has no finite vector; with the second, the model fails.
NAN, CRASH = "\N{SKULL AND CROSSBONES}", "\N{HIGH VOLTAGE SIGN}"
_ALPHABET = ["[PAD]", "[UNK]", *map(chr, range(32, 127)), NAN, CRASH]


def save_text_pack(
    save_graph: Callable[..., None],
    folder: Path,
    *,
    seed: int = 0,
    noise: float = 0.0,
    prompts: dict[str, str] | None = None,
) -> Path:
    """A model that reads characters: their vectors, weighted by position, then the mean.

    Another ``seed`` is another model. With ``noise`` the model gives the same text a slightly
    different vector each time.
    """
    random = np.random.default_rng(seed)
    table = random.normal(size=(len(_ALPHABET) - 1, DIMENSIONS)).astype(np.float32)
    table[_ALPHABET.index(NAN)] = np.nan
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["characters"]),
        helper.make_node("CumSum", ["attention_mask", "one"], ["positions"]),
        helper.make_node("Gather", ["weights", "positions"], ["weighting"]),
        helper.make_node("Mul", ["characters", "weighting"], ["clean"]),
        helper.make_node("RandomNormalLike", ["clean"], ["noise"], scale=noise),
        helper.make_node("Add", ["clean", "noise"], ["last_hidden_state"]),
    ]
    if not noise:
        nodes[-2:] = [helper.make_node("Identity", ["clean"], ["last_hidden_state"])]
    constants = {
        "table": table,
        "weights": random.normal(size=(MAX_TOKENS + 1, DIMENSIONS)).astype(np.float32),
        "one": np.array(1, np.int64),
    }
    text = ["batch", "sequence"]
    save_graph(
        folder / "model.onnx",
        nodes,
        dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, text)),
        {"last_hidden_state": (TensorProto.FLOAT, [*text, DIMENSIONS])},
        constants,
    )
    vocabulary = {token: number for number, token in enumerate(_ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    _save_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS})
    _save_json(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    return folder


def save_tensor_pack(save_graph: Callable[..., None], folder: Path) -> Path:
    """A model of float32 tensors of shape [2, 3] that takes the mean over their first axis."""
    save_graph(
        folder / "model.onnx",
        [helper.make_node("ReduceMean", ["pixels", "axis"], ["embedding"], keepdims=0)],
        {"pixels": (TensorProto.FLOAT, ["batch", 2, 3])},
        {"embedding": (TensorProto.FLOAT, ["batch", 3])},
        {"axis": np.array([1], np.int64)},
    )
    return folder


def _save_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def one_input(item: str | bytes | NDArray[Any] | embed_pb2.Input) -> embed_pb2.Input:
    """A text, or a float32 tensor, as an input."""
    if isinstance(item, str):
        return embed_pb2.Input(text=item)
    if isinstance(item, np.ndarray):
        tensor = embed_pb2.Tensor(
            dtype=embed_pb2.DTYPE_FLOAT32, shape=item.shape, data=item.astype("<f4").tobytes()
        )
        return embed_pb2.Input(tensor=tensor)
    assert isinstance(item, embed_pb2.Input)
    return item


def metadata_value(value: str | float | bool) -> search_pb2.MetadataValue:
    """A value of metadata as a message."""
    if isinstance(value, bool):
        return search_pb2.MetadataValue(flag=value)
    if isinstance(value, str):
        return search_pb2.MetadataValue(text=value)
    return search_pb2.MetadataValue(number=value)


class Sidecar:
    """A client of a sidecar, and what ends the sidecar."""

    def __init__(self, address: str, stop: Callable[[], Awaitable[None]]) -> None:
        self.address = address
        self.stop = stop
        self.channel = grpc.aio.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.embeds = embed_pb2_grpc.EmbedServiceStub(self.channel)
        self.caches = cache_pb2_grpc.CacheServiceStub(self.channel)
        self.searches = search_pb2_grpc.SearchServiceStub(self.channel)
        self.generators = generate_pb2_grpc.GenerateServiceStub(self.channel)

    def request(self, *items: Any, **fields: Any) -> embed_pb2.EmbedRequest:
        """A request; the fields of its cache options may be given with its own."""
        options = {name: fields.pop(name) for name in ("mode", "ttl", "tags") if name in fields}
        return embed_pb2.EmbedRequest(
            inputs=[one_input(item) for item in items],
            cache=common_pb2.CacheOptions(**options),
            **fields,
        )

    async def embed(self, *items: Any, **fields: Any) -> embed_pb2.EmbedResponse:
        """One call of Embed."""
        request = self.request(*items, **fields)
        response: embed_pb2.EmbedResponse = await self.embeds.Embed(request, timeout=HANG_GUARD)
        return response

    async def tiers(self, *items: Any, **fields: Any) -> list[str]:
        """What answered each item of a call: "HOT", "COMPUTED" and so on, "ERROR" for none."""
        response = await self.embed(*items, **fields)
        return [common_pb2.Tier.Name(e.tier).removeprefix("TIER_").replace("UNSPECIFIED", "ERROR")
                for e in response.embeddings]  # fmt: skip

    async def vectors(self, *items: Any, **fields: Any) -> list[bytes]:
        """The bytes of each item's vector."""
        return [e.vector for e in (await self.embed(*items, **fields)).embeddings]

    def search_request(self, text: str, **fields: Any) -> search_pb2.SearchRequest:
        """A request; the fields of its cache options may be given with its own."""
        options = {name: fields.pop(name) for name in ("mode", "ttl", "tags") if name in fields}
        return search_pb2.SearchRequest(
            text=text, cache=common_pb2.CacheOptions(**options), **fields
        )

    async def search(self, text: str, **fields: Any) -> search_pb2.SearchResponse:
        """One call of Search."""
        request = self.search_request(text, **fields)
        response: search_pb2.SearchResponse = await self.searches.Search(
            request, timeout=HANG_GUARD
        )
        return response

    async def found(self, text: str, **fields: Any) -> tuple[str, list[str]]:
        """What answered a search, "HOT", "COMPUTED" and so on, and the documents found."""
        response = await self.search(text, **fields)
        tier = common_pb2.Tier.Name(response.tier).removeprefix("TIER_")
        return tier, [result.id for result in response.results]

    async def status_of_search(self, text: str, **fields: Any) -> str:
        """How a call of Search ends: "OK", "NOT_FOUND" and so on."""
        try:
            await self.search(text, **fields)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async def upsert(
        self, documents: dict[str, str], *, tags: Sequence[str] = (), **fields: Any
    ) -> list[search_pb2.Upserted]:
        """Stores documents of one chunk, by their ids; ``metadata`` is for all of them."""
        metadata = fields.pop("metadata", {})
        messages = [
            search_pb2.Document(
                id=name,
                chunks=[search_pb2.Chunk(content=text)],
                metadata={key: metadata_value(value) for key, value in metadata.items()},
                tags=tags,
            )
            for name, text in documents.items()
        ]
        request = search_pb2.UpsertRequest(documents=messages, **fields)
        response = await self.searches.Upsert(request, timeout=HANG_GUARD)
        return list(response.documents)

    async def delete(self, *ids: str, **fields: Any) -> list[bool]:
        """Removes documents."""
        request = search_pb2.DeleteRequest(ids=ids, **fields)
        return list((await self.searches.Delete(request, timeout=HANG_GUARD)).found)

    def prompt(self, prompt: Any, **fields: Any) -> generate_pb2.GenerateRequest:
        """A request: a text, or a conversation as pairs of role and content.

        The fields of its cache and sampling options may be given with its own.
        """
        options = {name: fields.pop(name) for name in ("mode", "ttl", "tags") if name in fields}
        names = generate_pb2.Sampling.DESCRIPTOR.fields_by_name
        sampling = {name: fields.pop(name) for name in list(fields) if name in names}
        request = generate_pb2.GenerateRequest(
            cache=common_pb2.CacheOptions(**options),
            sampling=generate_pb2.Sampling(**sampling),
            **fields,
        )
        if isinstance(prompt, str):
            request.text = prompt
        else:
            for role, content in prompt:
                request.chat.messages.add(role=role, content=content)
        return request

    async def generate(self, prompt: Any, **fields: Any) -> generate_pb2.GenerateResponse:
        """One call of Generate."""
        request = self.prompt(prompt, **fields)
        response: generate_pb2.GenerateResponse = await self.generators.Generate(
            request, timeout=HANG_GUARD
        )
        return response

    async def generated(self, prompt: Any, **fields: Any) -> tuple[str, str]:
        """What answered a call of Generate, "HOT", "COMPUTED" and so on, and the text."""
        response = await self.generate(prompt, **fields)
        tier = common_pb2.Tier.Name(response.summary.tier).removeprefix("TIER_")
        return tier, response.text

    def stream(self, prompt: Any, **fields: Any) -> Any:
        """A call of GenerateStream."""
        return self.generators.GenerateStream(self.prompt(prompt, **fields), timeout=HANG_GUARD)

    async def stats(self) -> cache_pb2.StatsResponse:
        """The counters of the sidecar."""
        stats: cache_pb2.StatsResponse = await self.caches.Stats(
            cache_pb2.StatsRequest(), timeout=HANG_GUARD
        )
        return stats

    async def answered(self) -> dict[str, int]:
        """How many items each tier has answered."""
        return {
            common_pb2.Tier.Name(tier.tier).removeprefix("TIER_"): tier.answered
            for tier in (await self.stats()).tiers
        }

    async def computed(self) -> int:
        """How many inputs the first model has computed."""
        return (await self.stats()).models[0].computed

    async def flush(self, *tiers: common_pb2.Tier.ValueType) -> int:
        """Empties tiers of this sidecar; returns how many entries that were."""
        request = cache_pb2.FlushRequest(tiers=tiers)
        entries: int = (await self.caches.Flush(request, timeout=HANG_GUARD)).entries
        return entries

    async def on_disk(self, entries: int) -> None:
        """Waits until so many entries are on disk."""
        async with asyncio.timeout(HANG_GUARD):
            while (await self.stats()).tiers[1].entries != entries:
                pass

    async def invalidate(
        self,
        *,
        namespace: str = "",
        tags: Sequence[str] = (),
        inputs: Sequence[Any] = (),
        input_tags: Sequence[str] = (),
        **fields: Any,
    ) -> None:
        """Invalidates tags, or inputs (``fields`` are those of Inputs), or the whole namespace."""
        request = cache_pb2.InvalidateRequest(namespace=namespace)
        if tags:
            request.tags.tags.extend(tags)
        elif inputs:
            entries = [one_input(item) for item in inputs]
            target = cache_pb2.InvalidateRequest.Inputs(inputs=entries, tags=input_tags, **fields)
            request.inputs.CopyFrom(target)
        else:
            request.whole_namespace.SetInParent()
        await self.caches.Invalidate(request, timeout=HANG_GUARD)


@pytest.fixture(scope="session")
def tiny_pack(save_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts, in 8 dimensions, that computes in no time."""
    return save_text_pack(save_graph, tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_pack(save_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model under the name of the first."""
    return save_text_pack(save_graph, tmp_path_factory.mktemp("packs") / "tiny", seed=1)


@pytest.fixture(scope="session")
def noisy_pack(save_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives the same text a slightly different vector each time."""
    return save_text_pack(save_graph, tmp_path_factory.mktemp("packs") / "noisy", noise=1e-3)


@pytest.fixture(scope="session")
def tensor_pack(save_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of float32 tensors of shape [2, 3]."""
    return save_tensor_pack(save_graph, tmp_path_factory.mktemp("packs") / "tensors")


@pytest.fixture
def make_pack(save_graph: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of texts under a folder and a name: see `save_text_pack`."""
    return lambda folder, name="tiny", **options: save_text_pack(
        save_graph, tmp_path / folder / name, **options
    )


@pytest.fixture
async def start(
    tiny_pack: Path, transport: str
) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """Starts sidecars; ends those that still run after the test.

    Settings are given by section. The time limit of Redis is generous, so that a busy machine does
    not exceed it.
    """
    async with contextlib.AsyncExitStack() as exits:

        async def start_sidecar(
            *,
            packs: Sequence[Path] = (),
            redis: DevRedis | None = None,
            redis_timeout: float = 5,
            disk: Path | None = None,
            **sections: dict[str, Any],
        ) -> Sidecar:
            defaults: dict[str, dict[str, Any]] = {
                "server": {
                    "address": "127.0.0.1:0",
                    "transport": transport,
                    "drain_delay": 0,
                    "drain_timeout": 10,
                },
                "model": {
                    "packs": [str(pack) for pack in packs or [tiny_pack]],
                    "provider": "cpu",
                    "threads": 1,
                },
                "redis": {"url": redis.url if redis else "", "timeout": redis_timeout},
                "disk": {"folder": disk, "max_bytes": 2**25},
                "cache": {"ttl_jitter": 0},
                "index": {"url": "memory://"},
            }
            names = defaults.keys() | sections.keys()
            values = {name: defaults.get(name, {}) | sections.get(name, {}) for name in names}
            app = App(Settings.model_validate(values))
            running = await exits.enter_async_context(contextlib.AsyncExitStack())
            await running.enter_async_context(app)
            sidecar = Sidecar(app.addresses[0], running.aclose)
            exits.push_async_callback(sidecar.channel.close)
            return sidecar

        yield start_sidecar


@pytest.fixture
def start_front(
    start: Callable[..., Awaitable[Sidecar]],
) -> Callable[..., Awaitable[Sidecar]]:
    """Starts a sidecar in front of the encoders at some addresses."""

    async def start_sidecar(*addresses: str, model: str = "tiny", **options: Any) -> Sidecar:
        encoder = {"target": ",".join(addresses)} | options.pop("encoder", {})
        return await start(model={"packs": [model]}, encoder=encoder, **options)

    return start_sidecar


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[[str], Sidecar]]:
    """Makes clients of sidecars that run elsewhere."""
    async with contextlib.AsyncExitStack() as exits:

        async def nothing() -> None:
            """Who started it ends it."""

        def connect(address: str) -> Sidecar:
            client = Sidecar(address, nothing)
            exits.push_async_callback(client.channel.close)
            return client

        yield connect


class RedisView:
    """What a Redis holds, seen without the sidecar's code."""

    def __init__(self, server: DevRedis) -> None:
        self.client = redis.Redis.from_url(server.url)

    def entries(self) -> list[bytes]:
        """The keys of cache entries, in order."""
        return sorted(self.client.keys("embercache:embed:*"))

    def calls(self, command: str) -> int:
        """How often a command was called since the server's counters were reset."""
        return self.client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.fixture
def view() -> AsyncIterator[Callable[[DevRedis], RedisView]]:
    """Looks into a Redis."""
    with contextlib.ExitStack() as exits:

        def open_view(server: DevRedis) -> RedisView:
            opened = RedisView(server)
            exits.callback(opened.client.close)
            return opened

        yield open_view


class HeldModel:
    """Every model loaded meanwhile: its batches are noted, and run when the test lets them.

    ``sizes`` are those of the batches that were begun; ``holds`` says whether batches that begin
    from now on wait; ``error`` is what they fail with.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.holds = True
        self.error: Exception | None = None
        self._let_go = threading.Event()

    def let_go(self) -> None:
        """Lets what waits run, and all that follows."""
        self.holds = False
        self._let_go.set()

    def run(self, encoder: Encoder, batch: Sequence[Encodable]) -> NDArray[np.float32]:
        """Runs a batch when that is allowed."""
        waits = self.holds
        self.sizes.append(len(batch))
        assert not waits or self._let_go.wait(HANG_GUARD)
        if self.error is not None:
            raise self.error
        return Encoder.run(encoder, batch)


@pytest.fixture
def held_model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HeldModel]:
    """Holds models back: take it before a sidecar is started."""
    held = HeldModel()

    class HeldEncoder(Encoder):
        def run(self, batch: Sequence[Encodable]) -> NDArray[np.float32]:
            return held.run(self, batch)

    monkeypatch.setattr(sidecar.models.local, "Encoder", HeldEncoder)
    yield held
    held.let_go()
