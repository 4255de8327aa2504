"""What a sidecar answers to requests that are wrong, or ask for what it has not.

Its models are "tiny" and "tensors", its rerankers "tiny-maxsim" and "pairs", its generators "small"
and "bare", of which the second has no template. It takes 4 items, texts of 1,000 bytes, and
requests and answers of 2,048. The namespace "full" has documents, and "spent" no quota left.
"""

from __future__ import annotations

from embercache.v1 import common_pb2, embed_pb2, generate_pb2, search_pb2
from google.protobuf.duration_pb2 import Duration

from tests.e2e.statuses.conditions import (
    ALL_FAILED,
    BAD_OPTION,
    NO_GENERATOR,
    NO_MODEL,
    NO_RERANKER,
    NOT_CACHED,
    NOT_TAKEN,
    NOT_TEXT,
    OTHER_VERSION,
    QUOTA,
    UNUSABLE,
)
from tests.e2e.statuses.requests import (
    ONLY_IF_CACHED,
    SECRET,
    chat,
    delete,
    deleted,
    embed,
    embed_entity,
    embed_tensor,
    events,
    flush,
    generate,
    invalidate,
    invalidate_inputs,
    invalidate_search,
    migrate,
    rerank,
    rollback,
    sample,
    search,
    upsert,
    upsert_one,
    warm,
    warm_search,
    where,
)
from tests.e2e.statuses.scenario import Table, scenarios

# The model makes no numbers of a text with the one, and the generator none of the other.
NAN, NAN_TOKEN = "\N{SKULL AND CROSSBONES}", "|"
LONG = SECRET * 200
BAD_TAG = common_pb2.CacheOptions(tags=[SECRET * 99])
BAD_TTL = common_pb2.CacheOptions(ttl=Duration())
MALFORMED = "the document is malformed or too large"
BAD_TARGET, BAD_EVENT = "what is named is bad", "an event is bad"

_EMBED: Table = {
    ("Embed", "INVALID_ARGUMENT", "the batch is empty or too large"): [
        (embed_pb2.EmbedRequest(), "put at least one input into it"),
        (embed(*[SECRET] * 5), "more than the 4 allowed: split it"),
    ],
    ("Embed", "INVALID_ARGUMENT", BAD_OPTION): [
        (embed(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (embed(input_type=77), "input_type has the unknown value 77"),
        (embed(encoding=77), "encoding has the unknown value 77"),
        (embed(truncation=77), "truncation has the unknown value 77"),
        (embed(cache={"mode": 77}), "cache.mode has the unknown value 77"),
        (embed(cache=BAD_TTL), "cache.ttl must be positive"),
        (embed(cache=BAD_TAG), "a tag has 1 to 256 bytes"),
    ],
    ("Embed", "NOT_FOUND", NO_MODEL): [(embed(model=SECRET), "or add it to model.packs")],
    ("Embed", "FAILED_PRECONDITION", OTHER_VERSION): [
        (embed(model_version=SECRET), "or leave the version empty")
    ],
    ("EmbedStreamResponse.error", "RESOURCE_EXHAUSTED", "the request is too large"): [
        (embed(*[SECRET * 100] * 3), "split the batch, or raise server.max_message_bytes")
    ],
    ("Embedding.error", "INVALID_ARGUMENT", NOT_TEXT): [
        (embed_pb2.EmbedRequest(inputs=[{}]), "set its text, entity or tensor"),
        (embed(LONG), "split it into chunks, or raise server.max_text_bytes"),
        (embed_entity(text=SECRET), "an entity needs an id"),
        (embed_tensor(7), "its shape and dtype make"),
    ],
    ("Embedding.error", "INVALID_ARGUMENT", NOT_TAKEN): [
        (embed(model="tensors"), "model tensors takes tensors, not text"),
        (embed_tensor(3, 2), "this model takes float32 tensors of shape [2, 3]"),
    ],
    (
        "Embedding.error",
        "INVALID_ARGUMENT",
        "the model does not read the whole text, with TRUNCATION_ERROR",
    ): [(embed(SECRET * 20, truncation="TRUNCATION_ERROR"), "split it, or use TRUNCATION_END")],
    ("Embedding.error", "NOT_FOUND", NOT_CACHED): [(embed(cache=ONLY_IF_CACHED), "cache.mode")],
    ("Embedding.error", "INTERNAL", UNUSABLE): [(embed(SECRET + NAN), "model tiny gave no vector")],
}

_SEARCH: Table = {
    ("Search", "INVALID_ARGUMENT", "the query or the filter is bad"): [
        (search_pb2.SearchRequest(), "set its text or its vector"),
        (search(LONG), "raise server.max_text_bytes"),
        (search_pb2.SearchRequest(vector=b"1234"), "8 dimensions are 32 bytes of float32"),
        (search(model="tensors"), "model tensors takes tensors, not text"),
        (where(), "set one, or leave the filter out"),
        (where(equal={"key": f"{SECRET} ", "value": {"flag": True}}), "a key of metadata has 1"),
        (where(equal={"key": SECRET}), "set its text, number or flag"),
    ],
    ("Search", "INVALID_ARGUMENT", BAD_OPTION): [
        (search(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (search(collection=f"{SECRET} "), "a collection has 1 to 64"),
        (search(top_k=1001), "ask for at most 1000"),
        (search(semantic={"threshold": 2}), "semantic.threshold must be above 0"),
        (search(score_threshold=float("nan")), "score_threshold must be a number"),
        (search(rerank={"candidates": 1}), "rerank.candidates is 1"),
        (search(cache=BAD_TAG), "a tag has 1 to 256 bytes"),
        (search(rerank={"reranker": "pairs"}, namespace="full"), "shorten the query"),
    ],
    ("Search", "INVALID_ARGUMENT", "the answer would be too large"): [
        (search(namespace="full"), "ask for fewer with top_k, or store smaller chunks")
    ],
    ("Search", "NOT_FOUND", NO_MODEL): [(search(model=SECRET), "add it to model.packs")],
    ("Search", "NOT_FOUND", NO_RERANKER): [
        (search(rerank={"reranker": SECRET}), "add it to model.rerankers")
    ],
    ("Search", "NOT_FOUND", NOT_CACHED): [(search(cache=ONLY_IF_CACHED), "cache.mode")],
    ("Search", "FAILED_PRECONDITION", OTHER_VERSION): [
        (search(model_version=SECRET), "or leave the version empty")
    ],
    ("Search", "INTERNAL", UNUSABLE): [(search(SECRET + NAN), "model tiny gave no vector")],
}

_DOCUMENTS: Table = {
    (
        "Upsert",
        "INVALID_ARGUMENT",
        "there are no documents, too many, or two with the same id",
    ): [
        (search_pb2.UpsertRequest(), "1 to 4 are allowed (server.max_batch_items)"),
        (upsert(*[SECRET] * 5), "1 to 4 are allowed (server.max_batch_items)"),
        (upsert_one(chunks=[{}] * 5), "send fewer documents in a call"),
        (
            search_pb2.UpsertRequest(documents=[{"id": SECRET}] * 2),
            "have the same id: send the one that is right",
        ),
    ],
    ("Upsert", "INVALID_ARGUMENT", BAD_OPTION): [
        (upsert(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (upsert(collection=f"{SECRET} "), "a collection has 1 to 64"),
    ],
    ("Upsert", "NOT_FOUND", NO_MODEL): [(upsert(model=SECRET), "add it to model.packs")],
    ("Upserted.error", "INVALID_ARGUMENT", MALFORMED): [
        (upsert_one(id=""), "the id of a document has 1 to 1024 bytes"),
        (upsert_one(chunks=[]), "a document needs at least one chunk"),
        (upsert_one(chunks=[{}, {}]), "each with another chunk_id"),
        (upsert_one(chunks=[{"chunk_id": SECRET * 120}]), "a chunk_id has at most 1024 bytes"),
        (upsert_one(metadata={f"{SECRET} ": {"flag": True}}), "a key of metadata has 1 to 64"),
        (upsert_one(metadata={SECRET: {}}), "set its text, number or flag"),
        (upsert_one(tags=[SECRET * 99]), "a tag has 1 to 256 bytes"),
        (upsert(LONG), "raise server.max_text_bytes"),
    ],
    ("Upserted.error", "INVALID_ARGUMENT", NOT_TAKEN): [
        (upsert(model="tensors"), "model tensors takes tensors, not text")
    ],
    ("Upserted.error", "INTERNAL", UNUSABLE): [(upsert(SECRET + NAN), "model tiny gave no vector")],
    ("Delete", "INVALID_ARGUMENT", "there are no ids, or too many"): [
        (search_pb2.DeleteRequest(), "1 to 4 are allowed (server.max_batch_items)"),
        (delete(*"abcde"), "1 to 4 are allowed (server.max_batch_items)"),
    ],
    ("Delete", "INVALID_ARGUMENT", "an id is bad"): [
        (delete(SECRET * 120), "the id of a document has 1 to 1024 bytes")
    ],
    ("Delete", "INVALID_ARGUMENT", BAD_OPTION): [
        (delete(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (delete(collection=f"{SECRET} "), "a collection has 1 to 64"),
    ],
    ("Delete", "NOT_FOUND", NO_MODEL): [(delete(model=SECRET), "add it to model.packs")],
}

_RERANK: Table = {
    ("Rerank", "INVALID_ARGUMENT", "there are too many passages"): [
        (rerank(*[SECRET] * 5), "more than the 4 allowed: split them")
    ],
    ("Rerank", "INVALID_ARGUMENT", "a text is too long"): [
        (rerank(LONG), "raise server.max_text_bytes"),
        (rerank(query=LONG), "raise server.max_text_bytes"),
    ],
    ("Rerank", "INVALID_ARGUMENT", BAD_OPTION): [
        (rerank(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (rerank(cache=BAD_TTL), "cache.ttl must be positive"),
    ],
    ("Rerank", "NOT_FOUND", NO_RERANKER): [(rerank(reranker=SECRET), "add it to model.rerankers")],
    ("Rerank", "FAILED_PRECONDITION", OTHER_VERSION): [
        (rerank(reranker_version=SECRET), "or leave the version empty")
    ],
    ("RerankScore.error", "INVALID_ARGUMENT", "the query leaves no room for a passage"): [
        (rerank(reranker="pairs"), "shorten the query")
    ],
    ("RerankScore.error", "NOT_FOUND", NOT_CACHED): [(rerank(cache=ONLY_IF_CACHED), "cache.mode")],
    ("RerankScore.error", "INTERNAL", UNUSABLE): [(rerank(SECRET + NAN), "tiny")],
}

_GENERATE: Table = {
    ("Generate", "INVALID_ARGUMENT", "there is no prompt"): [
        (generate_pb2.GenerateRequest(), "set text or chat"),
        (generate(""), "the prompt is empty"),
        (generate_pb2.GenerateRequest(chat={}), "a chat has 1 to"),
    ],
    ("Generate", "INVALID_ARGUMENT", "a role is unknown"): [
        (chat(SECRET), "one of system, user, assistant")
    ],
    ("Generate", "INVALID_ARGUMENT", BAD_OPTION): [
        (sample(max_tokens=0), "sampling.max_tokens is 0: ask for at least one"),
        (sample(temperature=3), "sampling.temperature must be from 0 to 2"),
        (sample(top_p=0), "sampling.top_p is 0"),
        (sample(min_p=2), "sampling.min_p must be from 0 to 1"),
        (sample(repetition_penalty=99), "sampling.repetition_penalty must be from"),
        (sample(stop=[SECRET * 99]), "a stop string has 1 to 256 bytes"),
        (sample(stop_tokens=range(17)), "sampling.stop_tokens has more than 16"),
        (generate(namespace=f"{SECRET} "), "a namespace has 1 to 64"),
        (generate(semantic={"mode": 77}), "semantic.mode has the unknown value 77"),
        (generate(cache={"mode": 77}), "cache.mode has the unknown value 77"),
    ],
    ("Generate", "INVALID_ARGUMENT", "the prompt is longer than the model reads"): [
        (generate(SECRET * 60), "shorten the prompt"),
        (generate(LONG), "raise server.max_text_bytes"),
    ],
    ("Generate", "INVALID_ARGUMENT", "the prompt and its answer need more than prefix.max_bytes"): [
        (generate(sampling={"max_tokens": 400}), "or have prefix.max_bytes raised")
    ],
    ("Generate", "INVALID_ARGUMENT", "the model has no template for chats"): [
        (chat("user", model="bare"), "send the prompt as text")
    ],
    ("Generate", "INVALID_ARGUMENT", "the template refuses the chat"): [
        (chat("system"), "the model's chat template refuses this conversation")
    ],
    ("Generate", "INVALID_ARGUMENT", "the model has no such stop token"): [
        (sample(stop_tokens=[9999]), "stop token 9999 is outside of the model's vocabulary")
    ],
    ("Generate", "NOT_FOUND", NO_GENERATOR): [
        (generate(model=SECRET), "or add it to generator.packs")
    ],
    ("Generate", "NOT_FOUND", NOT_CACHED): [
        (generate(cache=ONLY_IF_CACHED), "cache.mode"),
        (
            generate(cache=ONLY_IF_CACHED, sampling={"temperature": 1}),
            "give a seed, temperature 0 or store_sampled",
        ),
    ],
    ("Generate", "FAILED_PRECONDITION", OTHER_VERSION): [
        (generate(model_version=SECRET), "or leave the version empty")
    ],
    ("Generate", "INTERNAL", UNUSABLE): [(generate(SECRET + NAN_TOKEN), "model small gave")],
}

_CACHE: Table = {
    ("Invalidate", "INVALID_ARGUMENT", "nothing is named"): [
        (invalidate(), "say what to invalidate: tags, inputs"),
        (invalidate(tags={}), "name at least one tag"),
        (invalidate(inputs={}), "name at least one input"),
        (invalidate(documents={}), "name at least one document"),
        (invalidate(searches={}), "name at least one search"),
        (invalidate(generations={}), "name at least one generation"),
    ],
    ("Invalidate", "INVALID_ARGUMENT", BAD_TARGET): [
        (invalidate(kind=SECRET), "must be one of embed, search, rerank, generate"),
        (invalidate(tags={"tags": [SECRET * 99]}), "a tag has 1 to 256 bytes"),
        (invalidate(documents={"ids": [SECRET * 120]}), "the id of a document has 1 to 1024"),
        (invalidate(model_version={"model": f"{SECRET} "}), "see ListModels"),
        (invalidate(inputs={"inputs": [{}]}), "set its text, entity or tensor"),
        (invalidate_search(top_k=1001), "ask for at most 1000"),
        (invalidate(namespace=f"{SECRET} ", kind="embed"), "a namespace has 1 to 64"),
    ],
    ("Invalidate", "NOT_FOUND", NO_MODEL): [
        (invalidate_inputs(model=SECRET), "add it to model.packs")
    ],
    ("Invalidate", "NOT_FOUND", NO_RERANKER): [
        (invalidate_search(rerank={"reranker": SECRET}), "add it to model.rerankers")
    ],
    ("Invalidate", "NOT_FOUND", NO_GENERATOR): [
        (
            invalidate(generations={"requests": [generate(model=SECRET)]}),
            "or add it to generator.packs",
        ),
        (invalidate(model_version={"model": SECRET}), "or add it to generator.packs"),
    ],
    ("Invalidate", "FAILED_PRECONDITION", OTHER_VERSION): [
        (invalidate_search(model_version=SECRET), "or leave the version empty")
    ],
    ("PublishEvents", "INVALID_ARGUMENT", "there are no events, or too many"): [
        (events(), "publish 1 to 1000 events"),
        (events(*[{}] * 1001), "publish 1 to 1000 events"),
    ],
    ("PublishEvents", "INVALID_ARGUMENT", BAD_EVENT): [
        (events({"type": 77}), "events.type has the unknown value 77"),
        (events({"type": "TYPE_DELETED"}), "needs their ids"),
        (deleted(SECRET * 120), "the id of a document has 1 to 1024"),
        (deleted(tags=[SECRET * 99]), "a tag has 1 to 256 bytes"),
        (deleted(collection=f"{SECRET} "), "a collection has 1 to 64"),
    ],
    ("Warm", "INVALID_ARGUMENT", "there is nothing to warm"): [
        (warm(), "say what to warm"),
        (warm(embed={}), "put inputs into embed"),
        (warm(searches={}), "put requests into searches"),
    ],
    ("Warm", "INVALID_ARGUMENT", BAD_OPTION): [
        (warm(embed=embed(), per_second=-1), "per_second must be a number of items"),
        (warm(popular={}), "say how many queries"),
    ],
    ("Warm", "INVALID_ARGUMENT", ALL_FAILED): [
        (warm_search(top_k=1001), "ask for at most 1000"),
        (warm(embed=embed(cache=BAD_TAG)), "a tag has 1 to 256 bytes"),
    ],
    ("Warm", "NOT_FOUND", ALL_FAILED): [
        (warm(embed=embed(model=SECRET)), "add it to model.packs"),
        (warm_search(rerank={"reranker": SECRET}), "add it to model.rerankers"),
    ],
    ("Warm", "FAILED_PRECONDITION", ALL_FAILED): [
        (warm(embed=embed(model_version=SECRET)), "or leave the version empty")
    ],
    ("Warm", "FAILED_PRECONDITION", "popular queries are not tracked"): [
        (warm(popular={"count": 1}), "set popular.queries")
    ],
    ("Warm", "INTERNAL", ALL_FAILED): [(warm(embed=embed(SECRET + NAN)), "model tiny gave no")],
    ("MigrateModel", "INVALID_ARGUMENT", BAD_OPTION): [
        (migrate("tensors", per_second=-1), "per_second must be a number of items")
    ],
    ("MigrateModel", "NOT_FOUND", NO_MODEL): [
        (migrate(SECRET), "add it to model.packs"),
        (migrate("tiny", model=SECRET), "add it to model.packs"),
    ],
    ("MigrateModel", "FAILED_PRECONDITION", "the name cannot mean that model"): [
        (migrate("tiny"), "tiny means tiny already")
    ],
    ("RollbackModel", "NOT_FOUND", NO_MODEL): [(rollback(SECRET), "add it to model.packs")],
    ("Flush", "INVALID_ARGUMENT", "a tier is not of this sidecar alone"): [
        (flush(common_pb2.TIER_WARM), "use Invalidate with whole_namespace")
    ],
}

# In a namespace whose items of this second, and of hours to come, were asked for already.
_SPENT: Table = {
    (owner, "RESOURCE_EXHAUSTED", QUOTA): [
        (request, "have its quota items_per_second raised in the policy")
    ]
    for owner, request in {
        "Embed": embed(namespace="spent"),
        "Search": search(namespace="spent"),
        "Upsert": upsert(namespace="spent"),
        "Delete": delete(namespace="spent"),
        "Rerank": rerank(namespace="spent"),
        "Generate": generate(namespace="spent"),
    }.items()
}

PLAIN = [
    *scenarios({**_EMBED, **_SEARCH, **_DOCUMENTS, **_RERANK, **_GENERATE, **_CACHE}),
    *scenarios(_SPENT, told_when=True),
]
