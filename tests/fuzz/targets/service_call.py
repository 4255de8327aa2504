"""Calls of every method of every service of a whole sidecar: the first byte chooses the method.

Models are small but real; what generates is not, it answers with its prompt. Whatever the bytes, a
call ends with an answer or a documented status, and no item of an answer with a fault of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import structlog
from embercache.v1 import (
    cache_pb2,
    common_pb2,
    embed_pb2,
    generate_pb2,
    search_pb2,
)
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

import sidecar.app
from sidecar.app import App
from sidecar.config import Settings
from sidecar.models.generation import (
    Completion,
    Generation,
    GeneratorCounters,
    GeneratorInfo,
    Piece,
)
from sidecar.open_services import handlers
from sidecar.services.errors import CallError, as_call_error
from sidecar.transport.handlers import Stream, Unary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sidecar.models.generation import GenerationRequest

ALLOWED = (CallError,)
MEGABYTES = 256
_CALL_SECONDS = 30
# Of streams, some of which go on as slowly as their caller wants.
_STREAM_SECONDS = 0.2
_DIMENSIONS = 4


class FaultError(Exception):
    """What a sidecar logs as an error, or a task of it raises for nobody."""


class _Faults(logging.Handler):
    """Notes what any module logs as an error, and what tasks raise for nobody."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last: BaseException | None = None

    def note(self, what: str, error: object) -> None:
        fault = FaultError(what)
        fault.__cause__ = error if isinstance(error, BaseException) else None
        self.last = fault

    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage(), record.exc_info[1] if record.exc_info else None)

    def process(self, _logger: Any, level: str, event: Any) -> Any:
        """A processor of structlog."""
        if level in ("error", "exception", "critical"):
            self.note(str(event), event.get("exc_info"))
        return str(event)

    def of_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a loop does with errors that nobody awaits."""
        self.note(context["message"], context.get("exception"))


class _Echo:
    """A generator that answers with its prompt."""

    info = GeneratorInfo("echo", "1", 64, accepts_chat=True, runs_on="cpu", is_local=True)
    queued = active = 0

    def __init__(self) -> None:
        self.counters = GeneratorCounters()

    def prefix_report(self) -> None:
        return None

    def forget_prompts(self) -> int:
        return 0

    def start(self, request: GenerationRequest, generation: Generation) -> None:
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1][1]
        pieces = (Piece(prompt[:64], (1,)),)
        generation.add(pieces)
        generation.set_result(Completion(pieces, "stop", 3, 1))

    async def close(self) -> None:
        pass


def _save_pack(folder: Path, seed: int) -> str:
    """A model that looks up a vector for each character, and a tokeniser to match."""
    folder.mkdir()
    words = ["[UNK]", *map(chr, range(32, 127))]
    table = np.random.default_rng(seed).normal(size=(len(words), _DIMENSIONS)).astype(np.float32)
    text: list[Any] = ["batch", "sequence"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, text)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, [*text, _DIMENSIONS]
            )
        ],
        [numpy_helper.from_array(table, "table")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), folder / "model.onnx")
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    return str(folder)


class _Methods(list[Any]):
    """Stands for what makes handlers: takes note of the methods, in the order of their names."""

    def of(self, _service: str, **methods: Any) -> None:
        self.extend(sorted(methods.items()))


async def _open() -> list[tuple[str, Any]]:
    """The methods of a sidecar, which is never closed."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    settings = Settings.model_validate(
        {
            "server": {"socket": str(folder / "s"), "address": "", "metrics_address": ""},
            "model": {"packs": [_save_pack(folder / name, n) for n, name in enumerate("ab")]},
            "hot": {"max_bytes": 16 << 20},
            "semantic": {"namespaces": ["default"], "threshold": 0.9},
            "popular": {"queries": 10},
        }
    )
    opened: list[Any] = []
    original = sidecar.app.open_services

    async def open_services(*arguments: Any) -> Any:
        opened.append(await original(*arguments))
        return opened[0]

    async def open_generators(*_: Any) -> dict[str, Any]:
        return {"echo": _Echo()}

    sidecar.app.open_services = open_services
    sidecar.app.open_generators = open_generators
    await App(settings).__aenter__()
    methods = _Methods()
    make: Any = methods
    handlers(opened[0], make)
    return sorted(methods)


_FAULTS = _Faults()
structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[_FAULTS.process])
logging.getLogger().addHandler(_FAULTS)
warnings.simplefilter("ignore")
_LOOP = asyncio.new_event_loop()
_LOOP.set_exception_handler(_FAULTS.of_loop)
_METHODS = _LOOP.run_until_complete(_open())


def seeds() -> Iterator[bytes]:
    cache = common_pb2.CacheOptions(mode=common_pb2.CACHE_MODE_REFRESH, tags=["a"])
    cache.ttl.seconds = 60
    text = search_pb2.MetadataValue(text="de")
    where = search_pb2.Filter(equal=search_pb2.Filter.Equal(key="language", value=text))
    document = search_pb2.Document(
        id="1", chunks=[search_pb2.Chunk(content="a text")], metadata={"language": text}
    )
    tensor = embed_pb2.Tensor(dtype=embed_pb2.DTYPE_FLOAT32, shape=[2], data=bytes(8))
    inputs = [
        embed_pb2.Input(text="a text"),
        embed_pb2.Input(entity=embed_pb2.Entity(id="1", text="b")),
        embed_pb2.Input(tensor=tensor),
    ]
    chat = [generate_pb2.ChatMessage(role="user", content="Hello")]
    search = search_pb2.SearchRequest(
        text="a text", top_k=3, filter=where, rerank=search_pb2.Rerank(), cache=cache
    )
    generation = generate_pb2.GenerateRequest(chat=generate_pb2.Chat(messages=chat), cache=cache)
    event = cache_pb2.Event(type=2, collection="c", ids=["1"])
    embed = embed_pb2.EmbedRequest(inputs=inputs, cache=cache, input_type=1, encoding=3)
    requests: dict[str, list[Any]] = {
        "Embed": [embed],
        "EmbedStream": [embed],
        "Search": [search, search_pb2.SearchRequest(vector=bytes(15) + b"\x3f", semantic={})],
        "Upsert": [search_pb2.UpsertRequest(documents=[document])],
        "Delete": [search_pb2.DeleteRequest(ids=["1"])],
        "Rerank": [search_pb2.RerankRequest(query="a", passages=["a text", "b"])],
        "Generate": [generation, generate_pb2.GenerateRequest(text="a", sampling={"top_k": 1})],
        "GenerateStream": [generation],
        "Invalidate": [
            cache_pb2.InvalidateRequest(tags={"tags": ["a"]}),
            cache_pb2.InvalidateRequest(inputs={"inputs": inputs}),
            cache_pb2.InvalidateRequest(searches={"requests": [search]}),
            cache_pb2.InvalidateRequest(generations={"requests": [generation]}),
            cache_pb2.InvalidateRequest(documents={"ids": ["1"]}),
            cache_pb2.InvalidateRequest(model_version={"model": "a", "version": "1"}),
        ],
        "PublishEvents": [cache_pb2.PublishEventsRequest(events=[event])],
        "Warm": [
            cache_pb2.WarmRequest(embed=embed),
            cache_pb2.WarmRequest(searches={"requests": [search]}),
            cache_pb2.WarmRequest(popular={"count": 3}, per_second=100),
        ],
        "MigrateModel": [cache_pb2.MigrateModelRequest(model="a", to="b")],
        "RollbackModel": [cache_pb2.RollbackModelRequest(model="a")],
    }
    for number, (name, _) in enumerate(_METHODS):
        yield bytes([number])
        for each in requests.get(name, ()):
            yield bytes([number]) + each.SerializeToString()


def run(data: bytes) -> None:
    _, method = _METHODS[data[0] % len(_METHODS) if data else 0]
    _FAULTS.last = None
    try:
        _LOOP.run_until_complete(_call(method, data[1:]))
    except Exception as error:
        raise as_call_error(error) from error
    finally:
        if _FAULTS.last is not None:
            raise _FAULTS.last


async def _call(method: Any, raw: bytes) -> None:
    if isinstance(method, Unary):
        async with asyncio.timeout(_CALL_SECONDS):
            if method.stored(raw) is None:
                await method.answer(raw)
        return
    answers = method.answer(_twice(raw) if isinstance(method, Stream) else raw)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STREAM_SECONDS), contextlib.aclosing(answers):
            async for _ in answers:
                pass


async def _twice(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
    yield raw
