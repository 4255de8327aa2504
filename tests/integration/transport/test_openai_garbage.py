"""Whatever JSON a client sends, it gets an answer, or an error that is its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    Front = Any

small = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

# JSON may hold halves of surrogate pairs, numbers of any size, and what is no JSON by its letter.
any_text = st.text(st.characters(exclude_categories=()), max_size=20)
any_number = st.integers() | st.integers(-(10**400), 10**400) | st.floats()
any_json = st.recursive(
    st.none() | st.booleans() | any_number | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects of which each field is right half of the time, or anything."""
    either = {name: value | any_json for name, value in optional.items()}
    return st.fixed_dictionaries(required, optional=either)


EXTENSION = objects(
    {},
    {
        "mode": st.sampled_from(["default", "refresh", "bypass", "no_store", "only_if_cached"]),
        "ttl": st.floats(),
        "tags": st.lists(any_text, max_size=2),
        "namespace": any_text,
        "semantic": st.booleans() | st.floats(0, 1),
        "store_sampled": st.booleans(),
        "input_type": st.sampled_from(["query", "document"]),
    },
)
EMBEDDINGS = objects(
    {"model": st.just("tiny") | any_json},
    {
        "input": any_text | st.lists(any_text, max_size=3),
        "encoding_format": st.sampled_from(["float", "base64"]),
        "dimensions": st.integers(1, 3),
        "embercache": EXTENSION,
    },
)
SAMPLING: dict[str, Any] = {
    "max_tokens": any_number,
    "max_completion_tokens": any_number,
    "temperature": any_number,
    "top_p": any_number,
    "top_k": any_number,
    "min_p": any_number,
    "repetition_penalty": any_number,
    "seed": any_number,
    "stop": any_text | st.lists(any_text, max_size=2),
    "stop_token_ids": st.lists(any_number, max_size=2),
    "stream": st.booleans(),
    "stream_options": objects({}, {"include_usage": st.booleans()}),
    "n": st.just(1),
    "tools": st.just([]),
    "embercache": EXTENSION,
}
COMPLETIONS = objects(
    {"model": st.just("small") | any_json},
    SAMPLING | {"prompt": any_text | st.lists(any_text, max_size=3)},
)
MESSAGES = objects(
    {},
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": any_text
        | st.lists(objects({}, {"type": st.just("text"), "text": any_text}), max_size=2),
    },
)
CHATS = objects(
    {"model": st.just("small") | any_json}, SAMPLING | {"messages": st.lists(MESSAGES, max_size=2)}
)


async def check(front: Front, path: str, body: Any) -> None:
    status, answer, _ = await front.post(path, json.dumps(body).encode())
    assert status < 500, answer
    if status >= 400:
        assert answer["error"]["message"]
        assert answer["error"].keys() == {"message", "type", "param", "code"}


@small
@given(path=st.sampled_from(["embeddings", "completions", "chat/completions"]), body=any_json)
async def test_any_json_is_answered(front: Front, path: str, body: Any) -> None:
    await check(front, path, body)


@small
@given(body=EMBEDDINGS)
async def test_so_are_embeddings_that_are_wrong_somewhere(front: Front, body: Any) -> None:
    await check(front, "embeddings", body)


@small
@given(body=COMPLETIONS)
async def test_so_are_completions_that_are_wrong_somewhere(front: Front, body: Any) -> None:
    await check(front, "completions", body)


@small
@given(body=CHATS)
async def test_so_are_chats_that_are_wrong_somewhere(front: Front, body: Any) -> None:
    await check(front, "chat/completions", body)


@small
@given(body=st.binary(max_size=100))
async def test_so_are_bytes_that_are_no_json(front: Front, body: bytes) -> None:
    status, _, _ = await front.post("embeddings", body)
    assert status == 400
