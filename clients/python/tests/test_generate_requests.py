"""Prompts are sent as they are given, or refused with a reason."""

from __future__ import annotations

from datetime import timedelta

import pytest

from embercache import ChatMessage, GenerateOptions, InvalidArgumentError
from embercache._generate_requests import generate_request
from embercache.v1 import common_pb2, generate_pb2


def test_without_options_a_request_has_its_prompt_and_nothing_else():
    assert generate_request("p") == generate_pb2.GenerateRequest(text="p")
    assert not generate_request("p").HasField("sampling")


def test_every_option_of_a_generation_is_sent():
    given = {
        "model": "m",
        "model_version": "v",
        "namespace": "n",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "seed": 2**64 - 1,
        "stop": ["\n", "END"],
        "stop_tokens": [2, 7],
        "mode": "refresh",
        "ttl": 1.5,
        "tags": ["a"],
        "semantic": 0.75,
        "store_sampled": True,
    }
    assert set(given) == set(GenerateOptions.__annotations__)
    sent = generate_request("p", **given)
    assert {each.name for each, _ in sent.ListFields()} == {
        each.name for each in sent.DESCRIPTOR.fields if each.name != "chat"
    }
    assert sent.sampling == generate_pb2.Sampling(
        max_tokens=5,
        temperature=0.5,
        top_k=40,
        top_p=0.75,
        min_p=0.25,
        repetition_penalty=1.5,
        seed=2**64 - 1,
        stop=["\n", "END"],
        stop_tokens=[2, 7],
    )
    assert len(sent.sampling.ListFields()) == len(sent.sampling.DESCRIPTOR.fields)
    assert sent.cache.mode == common_pb2.CACHE_MODE_REFRESH
    assert sent.cache.ttl.ToTimedelta() == timedelta(seconds=1.5)
    assert sent.semantic.threshold == 0.75


@pytest.mark.parametrize(
    "name", ["max_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "seed"]
)
def test_a_zero_is_told_from_an_option_that_is_left_out(name):
    assert generate_request("p", **{name: 0}).sampling.HasField(name)
    assert not generate_request("p", **{name: None}).HasField("sampling")


def test_a_conversation_is_of_messages_or_of_mappings():
    plain = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
    named = [ChatMessage("system", "be brief"), ChatMessage("user", "q")]
    sent = generate_request(plain)
    assert sent.WhichOneof("prompt") == "chat"
    assert [(each.role, each.content) for each in sent.chat.messages] == [
        ("system", "be brief"),
        ("user", "q"),
    ]
    assert generate_request(named) == sent == generate_request(tuple(plain))


def test_a_conversation_without_messages_is_one_all_the_same():
    assert generate_request([]).WhichOneof("prompt") == "chat"


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (ChatMessage("user", "q"), r"put it into a list: \[message\]"),
        ({"role": "user", "content": "q"}, r"put it into a list: \[message\]"),
        (["q"], "message 0 is a str; give a ChatMessage, or a mapping"),
        ([ChatMessage("user", "q"), ("user", "q")], "message 1 is a tuple"),
        ([{"role": "user", "content": ["q"]}], "the content of message 0 is a list; give a str"),
        ([{"role": 1, "content": "q"}], "the role of message 0 is a int"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_place(prompt, complaint):
    with pytest.raises(TypeError, match=complaint):
        generate_request(prompt)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "user"}, "it has role;"),
        ({}, "it has nothing;"),
        ({"role": "user", "content": "q", "name": "n"}, "it has role, content, name;"),
    ],
)
def test_a_mapping_of_other_fields_is_refused_rather_than_understood_in_part(message, found):
    with pytest.raises(InvalidArgumentError, match=found) as caught:
        generate_request([{"role": "user", "content": "secret"}, message])
    assert caught.value.index == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_tokens": -1}, "max_tokens is -1; it must be 0 to 4294967295"),
        ({"top_k": 2**32}, "top_k is 4294967296"),
        ({"seed": -1}, "seed is -1; it must be 0 to 18446744073709551615"),
        ({"stop_tokens": [1, -2]}, "a stop token is -2"),
        ({"semantic": 2}, "above 0, at most 1"),
        ({"mode": "never"}, "one of default, refresh"),
    ],
)
def test_an_option_that_cannot_be_sent_is_refused(options, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        generate_request("p", **options)


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": "3"}, {"temperature": "hot"}, {"stop": "END"}, {"stop_tokens": ["2"]}],
)
def test_an_option_of_another_type_is_refused(options):
    with pytest.raises(TypeError):
        generate_request("p", **options)


@pytest.mark.parametrize(
    ("prompt", "options", "place"),
    [
        ("secret \ud800", {}, None),
        ([ChatMessage("user", "a"), ChatMessage("user", "secret \ud800")], {}, 1),
        ("p", {"stop": ["secret \ud800"]}, None),
    ],
)
def test_a_lone_surrogate_is_refused_without_its_text(prompt, options, place):
    with pytest.raises(InvalidArgumentError, match="surrogate") as caught:
        generate_request(prompt, **options)
    assert caught.value.index == place
    assert "secret" not in str(caught.value)
