"""The openai package against a whole sidecar with real models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import openai
import pytest
from embercache.v1 import cache_pb2, cache_pb2_grpc, embed_pb2, embed_pb2_grpc
from openai import AsyncOpenAI, OpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

HANG_GUARD = 60.0
MINILM, SMOLLM = "minilm", "smollm2-135m"
ASK = [{"role": "user", "content": "Why do embers glow?"}]


@pytest.fixture(scope="module")
def addresses(
    tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path, smollm2_folder: Path
) -> Iterator[tuple[str, str]]:
    """Where a sidecar of a model of each kind listens: for gRPC, and for HTTP."""
    socket = tmp_path_factory.mktemp("front") / "sidecar.sock"
    command = [sys.executable, "-m", "sidecar", "serve", "--log-format", "json"]
    command += ["--server-address", "", "--server-socket", str(socket)]
    command += ["--server-openai-address", "127.0.0.1:0", "--server-drain-delay", "0"]
    command += ["--model-packs", str(minilm_folder), "--generator-packs", str(smollm2_folder)]
    command += ["--generator-max-tokens", "8"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                break
        else:
            pytest.fail("the sidecar does not start")
        grpc_address, url = event["addresses"]
        yield grpc_address, url
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANG_GUARD)
        assert process.returncode == 0


@pytest.fixture
async def client(addresses: tuple[str, str]) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=addresses[1], api_key="none", max_retries=0, timeout=HANG_GUARD
    ) as opened:
        yield opened


@pytest.fixture
async def channel(addresses: tuple[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(addresses[0]) as opened:
        yield opened


async def text_of(stream: Any) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MINILM, SMOLLM]


async def test_vectors_are_those_of_grpc(client: AsyncOpenAI, channel: grpc.aio.Channel) -> None:
    texts = ["embers glow", "a cat sleeps"]
    answer = await client.embeddings.create(model=MINILM, input=texts)
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=text) for text in texts])
    response = await embed_pb2_grpc.EmbedServiceStub(channel).Embed(request, timeout=HANG_GUARD)
    for item, embedding in zip(answer.data, response.embeddings, strict=True):
        assert np.array(item.embedding, "<f4").tobytes() == embedding.vector
    assert answer.usage.prompt_tokens == sum(e.tokens for e in response.embeddings)


async def test_the_second_call_for_a_vector_is_a_hit(client: AsyncOpenAI) -> None:
    calls = [
        await client.embeddings.with_raw_response.create(model=MINILM, input="asked three times")
        for _ in range(3)
    ]
    assert [call.headers["x-embercache-tier"] for call in calls] == ["computed", "hot", "hot"]
    assert calls[0].parse().data == calls[1].parse().data == calls[2].parse().data


async def test_the_second_chat_is_a_hit(client: AsyncOpenAI) -> None:
    calls = [
        await client.chat.completions.with_raw_response.create(model=SMOLLM, messages=ASK)
        for _ in range(3)
    ]
    assert [call.headers["x-embercache-tier"] for call in calls] == ["computed", "hot", "hot"]
    first, second, third = (call.parse().choices[0] for call in calls)
    assert first == second == third
    assert len(first.message.content) > 8
    assert first.finish_reason == "length"


async def test_the_second_completion_is_a_hit(client: AsyncOpenAI) -> None:
    calls = [
        await client.completions.with_raw_response.create(
            model=SMOLLM, prompt="Once upon a time", max_tokens=5
        )
        for _ in range(2)
    ]
    assert [call.headers["x-embercache-tier"] for call in calls] == ["computed", "hot"]
    assert calls[0].parse().choices == calls[1].parse().choices
    assert calls[0].parse().usage.completion_tokens == 5


async def test_a_stream_is_the_text_of_the_whole_answer_and_then_a_hit(
    client: AsyncOpenAI,
) -> None:
    ask: Any = {"model": SMOLLM, "messages": [{"role": "user", "content": "Name a colour."}]}
    tiers, texts = [], []
    for _ in range(2):
        call = await client.chat.completions.with_raw_response.create(**ask, stream=True)
        tiers.append(call.headers["x-embercache-tier"])
        texts.append(await text_of(call.parse()))
    whole = await client.chat.completions.create(**ask)
    assert tiers == ["computed", "hot"]
    assert {*texts} == {whole.choices[0].message.content}


async def test_the_beginning_of_a_prompt_that_was_read_before_is_told_in_usage(
    client: AsyncOpenAI,
) -> None:
    manual = {"role": "system", "content": "The kettle is to be descaled once a month. " * 20}
    usages = []
    for question in ("How often is it descaled?", "What is it?"):
        messages: Any = [manual, {"role": "user", "content": question}]
        answer = await client.chat.completions.create(model=SMOLLM, messages=messages)
        usages.append(answer.usage)
    first, second = (usage.prompt_tokens_details.cached_tokens for usage in usages)
    assert first == 0
    assert 100 < second < usages[1].prompt_tokens


def test_the_programs_of_the_page_run(
    addresses: tuple[str, str],
    blocks_of: Callable[[str, str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Those of LangChain and LlamaIndex, which are not installed here, are run by tests/migrating.
    ask, with_options, _langchain, _llama_index = blocks_of("docs/openai.md", "python")
    assert "http://127.0.0.1:50552/v1" in ask
    names: dict[str, Any] = {}
    exec(ask.replace("http://127.0.0.1:50552/v1", addresses[1]), names)  # noqa: S102 - our page
    with names["client"] as client:
        exec(with_options, names)  # noqa: S102 - our page
        extra = {"namespace": "shop", "tags": ["release-7"], "mode": "only_if_cached"}
        again = client.chat.completions.with_raw_response.create(
            model=SMOLLM, messages=ASK, extra_body={"embercache": extra}
        )
    assert again.headers["x-embercache-tier"] == "hot"
    text = names["answer"].parse().choices[0].message.content
    tier = names["answer"].headers["x-embercache-tier"]
    assert capsys.readouterr().out == f"{tier} {text}\n{text}['{MINILM}', '{SMOLLM}']\n"
    assert [len(vector.embedding) for vector in names["vectors"].data] == [384, 384]


async def test_the_client_without_asyncio_is_served_too(addresses: tuple[str, str]) -> None:
    with OpenAI(base_url=addresses[1], api_key="none", timeout=HANG_GUARD) as client:
        stream = client.chat.completions.create(model=SMOLLM, messages=ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert len(client.embeddings.create(model=MINILM, input="a text").data[0].embedding) == 384


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "token"),
        ({"messages": [{"role": "judge", "content": "Hello"}]}, "role"),
        ({"extra_body": {"embercache": {"namespace": "a b"}}}, "namespace"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_a_request_that_is_wrong_is_told_why(
    client: AsyncOpenAI, options: Any, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        await client.chat.completions.create(**{"model": SMOLLM, "messages": ASK} | options)


async def test_what_is_not_cached_can_be_told_from_an_unknown_model(client: AsyncOpenAI) -> None:
    extra = {"embercache": {"mode": "only_if_cached", "namespace": "empty"}}
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model=SMOLLM, messages=ASK, extra_body=extra)
    assert caught.value.code == "not_cached"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-4o", messages=ASK)
    assert caught.value.code == "model_not_found"


async def test_a_client_that_leaves_ends_its_generation_which_is_not_cached(
    client: AsyncOpenAI, channel: grpc.aio.Channel
) -> None:
    stub = cache_pb2_grpc.CacheServiceStub(channel)

    async def generator() -> cache_pb2.GeneratorStats:
        stats = await stub.Stats(cache_pb2.StatsRequest(), timeout=HANG_GUARD)
        return stats.generators[0]

    ask: Any = {"model": SMOLLM, "prompt": "One, two, three,", "max_tokens": 4000}
    before = (await generator()).abandoned
    stream = await client.completions.create(**ask, stream=True)
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(HANG_GUARD):
        while (now := await generator()).abandoned == before or now.active:
            pass
    extra = {"embercache": {"mode": "only_if_cached"}}
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(**ask, extra_body=extra)
