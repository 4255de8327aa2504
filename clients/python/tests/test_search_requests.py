"""Searches and documents are sent as they are given, or refused with a reason."""

from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embercache import Chunk, Document, InvalidArgumentError, Rerank, SearchOptions, _batches, field
from embercache._batches import Batcher, batches
from embercache._search_requests import (
    UPSERT,
    documents_once,
    rerank_options,
    search_request,
)
from embercache.search import RerankOptions
from embercache.v1 import common_pb2, search_pb2

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def documents(*given_):
    """The messages of the documents."""
    cut = batches(given_, Batcher(UPSERT, search_pb2.UpsertRequest()))
    return [message for batch in cut for message in batch.request.documents]


def test_without_options_a_search_has_its_text_and_ten_results():
    assert search_request("q") == search_pb2.SearchRequest(text="q", top_k=10)


def test_every_option_of_a_search_is_sent():
    given_ = {
        "top_k": 5,
        "where": {"lang": "en"},
        "score_threshold": 0.25,
        "rerank": Rerank("cross", candidates=30),
        "collection": "c",
        "namespace": "n",
        "model": "m",
        "model_version": "v",
        "mode": "refresh",
        "ttl": 1.5,
        "tags": ["a"],
        "semantic": 0.9,
    }
    assert set(given_) == set(SearchOptions.__annotations__)
    sent = search_request("q", **given_)
    assert {each.name for each, _ in sent.ListFields()} == {
        each.name for each in sent.DESCRIPTOR.fields if each.name != "vector"
    }
    assert sent.filter == (field("lang") == "en").message
    assert sent.rerank == search_pb2.Rerank(reranker="cross", candidates=30)
    assert sent.score_threshold == 0.25
    assert sent.cache.mode == common_pb2.CACHE_MODE_REFRESH
    assert sent.cache.ttl.ToTimedelta() == timedelta(seconds=1.5)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i4"])
def test_a_vector_is_sent_as_little_endian_float32(dtype):
    sent = search_request(np.array([1, -2, 3], dtype))
    assert sent.WhichOneof("query") == "vector"
    assert sent.vector == np.array([1, -2, 3], "<f4").tobytes()


@pytest.mark.parametrize(
    "query", [np.zeros((1, 3)), np.array(3.0), np.array(["a"]), np.zeros(2, complex)]
)
def test_an_array_that_is_no_vector_is_refused(query):
    with pytest.raises(InvalidArgumentError, match=r"one vector of numbers: shape \[dimensions\]"):
        search_request(query)


@pytest.mark.parametrize("query", [None, b"q", ["q"], 3])
def test_a_query_of_another_type_is_refused(query):
    with pytest.raises(TypeError, match="give a str or a numpy array"):
        search_request(query)


@pytest.mark.parametrize("top_k", [0, -1, 1001])
def test_a_number_of_results_out_of_range_is_refused_rather_than_taken_for_the_default(top_k):
    with pytest.raises(InvalidArgumentError, match=r"top_k is .*; it must be 1 to 1000"):
        search_request("q", top_k=top_k)
    with pytest.raises(InvalidArgumentError, match=r"candidates is .*; it must be 1 to 1000"):
        search_request("q", rerank=Rerank(candidates=top_k))


def test_reranking_is_asked_for_by_true_or_in_detail():
    assert not search_request("q").HasField("rerank")
    assert not search_request("q", rerank=False).HasField("rerank")
    assert search_request("q", rerank=True).rerank == search_pb2.Rerank()
    assert search_request("q", rerank=True).HasField("rerank")
    with pytest.raises(TypeError, match="True, False or a Rerank"):
        search_request("q", rerank="cross")


def test_semantic_answers_are_on_off_on_above_a_threshold_or_as_the_sidecar_is_set():
    options = common_pb2.SemanticOptions
    assert not search_request("q").HasField("semantic")
    assert search_request("q", semantic=True).semantic == options(mode=options.MODE_ON)
    assert search_request("q", semantic=False).semantic == options(mode=options.MODE_OFF)
    above = search_request("q", semantic=0.75).semantic
    assert above == options(mode=options.MODE_ON, threshold=0.75)
    assert search_request("q", semantic=1).semantic.threshold == 1


@pytest.mark.parametrize("semantic", [0.0, -0.5, 1.5, float("nan")])
def test_a_semantic_threshold_out_of_range_is_refused(semantic):
    with pytest.raises(InvalidArgumentError, match="above 0, at most 1"):
        search_request("q", semantic=semantic)


def test_a_score_threshold_of_zero_is_one():
    assert search_request("q", score_threshold=0.0).HasField("score_threshold")
    assert not search_request("q").HasField("score_threshold")


def test_every_option_of_a_reranking_is_sent():
    given_ = {
        "reranker": "cross",
        "reranker_version": "v",
        "namespace": "n",
        "mode": "bypass",
        "ttl": 2,
        "tags": ["t"],
    }
    assert set(given_) == set(RerankOptions.__annotations__)
    sent = rerank_options("q", **given_)
    assert {each.name for each, _ in sent.ListFields()} == {
        each.name for each in sent.DESCRIPTOR.fields if each.name != "passages"
    }


def test_a_document_of_one_text_has_one_chunk_without_a_name():
    assert documents(
        Document("1", "text", {"lang": "en", "year": 2000, "draft": False}, ["t"])
    ) == [
        search_pb2.Document(
            id="1",
            chunks=[search_pb2.Chunk(content="text")],
            metadata={
                "lang": search_pb2.MetadataValue(text="en"),
                "year": search_pb2.MetadataValue(number=2000),
                "draft": search_pb2.MetadataValue(flag=False),
            },
            tags=["t"],
        )
    ]


def test_chunks_are_named_by_their_place_unless_they_have_a_name():
    (message,) = documents(Document("1", ["zero", Chunk("title", "one"), "two"]))
    assert [(chunk.chunk_id, chunk.content) for chunk in message.chunks] == [
        ("0", "zero"),
        ("title", "one"),
        ("2", "two"),
    ]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("text", "document 0 is a str; give a Document"),
        (Document(7, "text"), "the id of document 0 is a int; give a str"),
        (Document("1", [b"bytes"]), "chunk 0 of document 0 is a bytes"),
        (Document("1", [Chunk("a", None)]), "the content of chunk 0 of document 0"),
        (Document("1", [Chunk(1, "a")]), "the chunk_id of chunk 0 of document 0"),
        (Document("1", "text", {"lang": None}), "lang is a NoneType"),
        (Document("1", "text", tags="t"), r"put it into a list: \[tag\]"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(document, complaint):
    with pytest.raises(TypeError, match=complaint):
        documents(document)


def test_a_lone_surrogate_is_refused_with_the_place_of_the_document_and_without_its_text():
    with pytest.raises(InvalidArgumentError, match="surrogate") as caught:
        documents(Document("1", "text"), Document("2", ["secret \ud800"]))
    assert caught.value.index == 1
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidArgumentError, match="surrogate") as caught:
        search_request("secret \ud800")
    assert "secret" not in str(caught.value)


def test_an_id_that_is_given_twice_is_refused_wherever_it_would_travel():
    given_ = [Document("1", "a"), Document("2", "b"), Document("1", "c")]
    with pytest.raises(InvalidArgumentError, match="twice") as caught:
        documents_once(iter(given_))
    assert caught.value.index == 2
    assert documents_once(iter(given_[:2])) == given_[:2]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=30), st.integers(1, 9))
def test_documents_are_cut_by_their_chunks_and_bytes_and_all_arrive_in_order(shapes, most):
    given_ = [
        Document(str(place), ["x" * size] * chunks) for place, (chunks, size) in enumerate(shapes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batches, "MAX_BATCH_BYTES", 200)
        cut = list(batches(given_, Batcher(UPSERT, search_pb2.UpsertRequest(model="m"), most)))
    assert [document for batch in cut for document in batch.inputs] == given_
    sizes = [
        [(len(message.chunks), message.ByteSize()) for message in batch.request.documents]
        for batch in cut
    ]
    assert all(batch.request.model == "m" for batch in cut)
    for batch in sizes:
        chunks, size = (sum(each) for each in zip(*batch, strict=True))
        assert len(batch) == 1 or (chunks <= most and size <= 200)
    for batch, following in itertools.pairwise(sizes):  # none is cut without need
        chunks, size = (sum(each) for each in zip(*batch, following[0], strict=True))
        assert chunks > most or size > 200
