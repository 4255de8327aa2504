"""What is to be invalidated, told or warmed is sent as it is given, or refused with a reason."""

from __future__ import annotations

import pytest

from embercache import ChatMessage, Entity, Event, Generation, InvalidArgumentError, Search, field
from embercache._cache_requests import events_request, invalidate_request
from embercache._generate_requests import generate_request
from embercache.v1 import cache_pb2, embed_pb2, search_pb2

Target = cache_pb2.InvalidateRequest
TARGETS = {
    "tags": ["a"],
    "inputs": ["t"],
    "documents": ["doc"],
    "searches": ["q"],
    "generations": ["p"],
    "kind": "rerank",
    "model_version": "v1",
    "whole_namespace": True,
}


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_of_the_contract_can_be_given_alone(name):
    assert invalidate_request(**{name: TARGETS[name]}).WhichOneof("target") == name


def test_the_contract_has_no_other_targets():
    targets = Target.DESCRIPTOR.oneofs_by_name["target"].fields
    assert {each.name for each in targets} == set(TARGETS)


@pytest.mark.parametrize("first", TARGETS)
@pytest.mark.parametrize("second", TARGETS)
def test_two_targets_are_refused_and_named(first, second):
    if {first, second} <= {"tags", "inputs"}:
        return  # the same, or inputs that were stored with tags
    if first != second:
        with pytest.raises(InvalidArgumentError, match="give exactly one of") as caught:
            invalidate_request(**{name: TARGETS[name] for name in (first, second)})
        given = str(caught.value).partition("these are given: ")[2]
        assert first in given
        assert second in given


def test_no_target_is_refused_with_what_there_is():
    with pytest.raises(InvalidArgumentError, match="one of tags, inputs, documents, searches, "):
        invalidate_request()


def test_an_empty_list_is_a_target_all_the_same():
    with pytest.raises(InvalidArgumentError, match="exactly one"):
        invalidate_request(tags=[], whole_namespace=True)


def test_inputs_go_with_the_options_of_the_calls_that_stored_them():
    sent = invalidate_request(
        inputs=["t", Entity("doc")], model="m", input_type="document", tags=["a"], namespace="n"
    )
    assert sent.namespace == "n"
    assert sent.inputs == Target.Inputs(
        inputs=[embed_pb2.Input(text="t"), embed_pb2.Input(entity=embed_pb2.Entity(id="doc"))],
        model="m",
        input_type=embed_pb2.INPUT_TYPE_DOCUMENT,
        tags=["a"],
    )


def test_documents_go_with_their_collection():
    sent = invalidate_request(documents=["1", "2"], collection="shop")
    assert sent.documents == Target.Documents(ids=["1", "2"], collection="shop")


def test_searches_are_texts_or_searches_with_all_their_options():
    sent = invalidate_request(searches=["q", Search("r", top_k=3, where={"lang": "en"})])
    assert sent.searches.requests == [
        search_pb2.SearchRequest(text="q", top_k=10),
        search_pb2.SearchRequest(text="r", top_k=3, filter=(field("lang") == "en").message),
    ]


def test_generations_are_prompts_as_they_are_or_with_all_their_options():
    chat = [ChatMessage("user", "q")]
    sent = invalidate_request(generations=["p", Generation(chat, max_tokens=3, tags=["t"])])
    assert sent.generations.requests == [
        generate_request("p"),
        generate_request(chat, max_tokens=3, tags=["t"]),
    ]


@pytest.mark.parametrize(("target", "kind"), [("searches", Search), ("generations", Generation)])
def test_what_was_asked_in_another_namespace_is_refused_rather_than_looked_for_in_the_wrong_one(
    target, kind
):
    for asked in ("q", kind("q"), kind("q", namespace="n")):
        sent = getattr(invalidate_request(**{target: [asked]}, namespace="n"), target)
        assert sent.requests[0].namespace == "n"
    with pytest.raises(InvalidArgumentError, match="another namespace"):
        invalidate_request(**{target: [kind("q", namespace="n")]})


def test_an_empty_model_version_is_the_one_that_is_loaded():
    sent = invalidate_request(model_version="", model="m")
    assert sent.WhichOneof("target") == "model_version"
    assert sent.model_version == Target.ModelVersion(model="m")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tags": ["a"], "model": "m"}, "model only goes with inputs and model_version"),
        ({"documents": ["a"], "input_type": "query"}, "input_type only goes with inputs"),
        ({"tags": ["a"], "collection": "c"}, "collection only goes with documents"),
    ],
)
def test_what_does_not_go_with_a_target_is_refused_rather_than_ignored(given, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        invalidate_request(**given)


@pytest.mark.parametrize("name", ["tags", "inputs", "documents", "searches", "generations"])
def test_a_single_str_in_place_of_a_list_is_refused(name):
    with pytest.raises(TypeError, match="put it into a list"):
        invalidate_request(**{name: "abc"})


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(
        InvalidArgumentError, match="one of embed, search, rerank, generate, prefix"
    ):
        invalidate_request(kind="query")


def test_events_are_sent_as_they_are():
    sent = events_request(
        [Event("created", collection="c"), Event("deleted", ["1"], namespace="n", tags=["t"])]
    )
    assert list(sent.events) == [
        cache_pb2.Event(type=cache_pb2.Event.TYPE_CREATED, collection="c"),
        cache_pb2.Event(type=cache_pb2.Event.TYPE_DELETED, ids=["1"], namespace="n", tags=["t"]),
    ]


@pytest.mark.parametrize("kind", cache_pb2.Event.Type.keys()[1:])
def test_every_event_of_the_contract_has_a_name(kind):
    (event,) = events_request([Event(kind.removeprefix("TYPE_").lower())]).events
    assert event.type == cache_pb2.Event.Type.Value(kind)


@pytest.mark.parametrize(
    ("event", "error", "complaint"),
    [
        ("deleted", TypeError, "event 0 is a str; give an Event"),
        (Event("moved"), InvalidArgumentError, "one of created, updated, deleted"),
        (Event("deleted", "doc"), TypeError, "put it into a list"),
        (Event("deleted", ["doc"], tags="t"), TypeError, "put it into a list"),
    ],
)
def test_what_is_no_event_is_refused(event, error, complaint):
    with pytest.raises(error, match=complaint):
        events_request([event])
