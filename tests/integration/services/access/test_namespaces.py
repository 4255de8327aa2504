"""A caller uses his own namespaces alone, wherever a request can name one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, embed_pb2, generate_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.descriptor import Descriptor

    Start = Callable[..., Awaitable[Any]]
    KnownAs = Callable[..., Any]
    EndOf = Callable[..., Awaitable[tuple[str, str]]]

HANG_GUARD = 30.0
TEXT = [embed_pb2.Input(text="a text")]
EMBED = embed_pb2.EmbedRequest(inputs=TEXT, namespace="bank")
SEARCH = search_pb2.SearchRequest(text="a query", namespace="bank")
GENERATE = generate_pb2.GenerateRequest(text="a prompt", namespace="bank")
DOCUMENT = search_pb2.Document(id="a", chunks=[search_pb2.Chunk(content="a")])
INVALIDATE = cache_pb2.InvalidateRequest
WARM = cache_pb2.WarmRequest

# By the field that names it, every request with the namespace of somebody else.
FOREIGN: dict[str, Any] = {
    "Embed.namespace": EMBED,
    "EmbedStream.request.namespace": embed_pb2.EmbedStreamRequest(request=EMBED),
    "Search.namespace": SEARCH,
    "Upsert.namespace": search_pb2.UpsertRequest(documents=[DOCUMENT], namespace="bank"),
    "Delete.namespace": search_pb2.DeleteRequest(ids=["a"], namespace="bank"),
    "Rerank.namespace": search_pb2.RerankRequest(query="a", passages=["b"], namespace="bank"),
    "Generate.namespace": GENERATE,
    "GenerateStream.namespace": GENERATE,
    "Invalidate.namespace": INVALIDATE(namespace="bank", kind="embed"),
    "PublishEvents.events.namespace": cache_pb2.PublishEventsRequest(
        events=[
            cache_pb2.Event(type="TYPE_CREATED"),
            cache_pb2.Event(type="TYPE_CREATED", namespace="bank"),
        ]
    ),
    "Warm.embed.namespace": WARM(embed=EMBED),
    "Warm.searches.requests.namespace": WARM(
        searches=WARM.Searches(requests=[search_pb2.SearchRequest(text="own"), SEARCH])
    ),
    "Warm.popular.namespace": WARM(popular=WARM.Popular(namespace="bank", count=1)),
}
# What the contract says that nobody looks at.
NOT_LOOKED_AT = {
    "Invalidate.searches.requests.namespace",
    "Invalidate.generations.requests.namespace",
}


def namespace_fields(message: Descriptor, path: str) -> Iterator[str]:
    """The paths of all fields of that name in a message."""
    for field in message.fields:
        if field.name == "namespace":
            yield f"{path}.namespace"
        # A filter has filters in it, for ever.
        elif field.message_type is not None and field.message_type.name != "Filter":
            yield from namespace_fields(field.message_type, f"{path}.{field.name}")


@pytest.fixture
def begin(start: Start, policy: Any, openai_server: Any) -> Start:
    """Starts a sidecar that has everything."""
    generator = {"target": openai_server.target, "packs": ["echo"]}
    sections = {"generator": generator, "popular": {"queries": 10}, "access": policy.section}
    return lambda **more: start(**sections | more)


def test_every_field_that_names_a_namespace_is_tried(every_method: list[Any]) -> None:
    fields = {
        path for method in every_method for path in namespace_fields(method.input_type, method.name)
    }
    assert fields == FOREIGN.keys() | NOT_LOOKED_AT


@pytest.mark.threat("A caller uses the namespace of another")
async def test_the_namespace_of_another_is_refused_in_every_field_and_changes_nothing(
    begin: Start, known_as: KnownAs, every_method: list[Any], end_of: EndOf
) -> None:
    sidecar = await begin()
    shop, bank = known_as(sidecar, "shop"), known_as(sidecar, "bank")
    await bank.upsert({"a": "of the bank"})
    await bank.embed("a text")
    methods = {method.name: method for method in every_method}
    for field, request in FOREIGN.items():
        method = methods[field.partition(".")[0]]
        if method.name == "EmbedStream":
            # The call goes on: each of its requests is answered on its own.
            (answer,) = [each async for each in shop.embeds.EmbedStream(iter([request]))]
            assert answer.error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
            continue
        code, says = await end_of(shop.showing, method, request.SerializeToString())
        assert (field, code) == (field, "PERMISSION_DENIED")
        assert "caller shop may not use this namespace" in says
    assert await bank.found("a query") == ("COMPUTED", ["a"])
    assert await bank.tiers("a text") == ["HOT"]


async def test_a_namespace_is_refused_alike_whether_it_exists_or_not(
    begin: Start, known_as: KnownAs
) -> None:
    sidecar = await begin()
    await known_as(sidecar, "bank").embed("a text")
    said = set()
    for namespace in ("bank", "no-such"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await known_as(sidecar, "shop").embed("a text", namespace=namespace)
        said.add((raised.value.code(), raised.value.details()))
    assert len(said) == 1


async def test_a_call_that_names_none_is_of_the_callers_first(
    begin: Start, policy: Any, known_as: KnownAs
) -> None:
    policy.allow("both", "bank", "shop")
    sidecar = await begin()
    both = known_as(sidecar, "both")
    await both.embed("a text")
    assert await both.tiers("a text", namespace="bank") == ["HOT"]
    assert await both.tiers("a text", namespace="shop") == ["COMPUTED"]


async def test_who_may_use_every_namespace_has_that_of_the_sidecar_where_he_names_none(
    begin: Start, known_as: KnownAs
) -> None:
    sidecar = await begin(cache={"namespace": "shop"})
    await known_as(sidecar, "admin").embed("a text")
    assert await known_as(sidecar, "shop").tiers("a text") == ["HOT"]


async def test_callers_of_the_same_namespaces_share_what_is_cached(
    begin: Start, policy: Any, known_as: KnownAs
) -> None:
    policy.allow("replica", "shop", rights="read")
    sidecar = await begin()
    shop, replica = known_as(sidecar, "shop"), known_as(sidecar, "replica")
    for _ in range(3):
        await shop.embed("a text")
    before = (await known_as(sidecar, "admin").stats()).response_hits
    assert await replica.tiers("a text") == ["HOT"]
    assert (await known_as(sidecar, "admin").stats()).response_hits == before + 1


async def test_the_popular_queries_of_a_namespace_are_warmed_for_one_whose_first_is_another(
    begin: Start, policy: Any, known_as: KnownAs
) -> None:
    policy.allow("both", "bank", "shop")
    sidecar = await begin()
    shop, both, admin = (known_as(sidecar, name) for name in ("shop", "both", "admin"))
    for _ in range(3):
        await shop.embed("popular")
    await admin.flush()
    popular = WARM(popular=WARM.Popular(namespace="shop", count=10))
    assert [p.computed async for p in both.caches.Warm(popular, timeout=HANG_GUARD)][-1] == 1
    assert await shop.tiers("popular") == ["HOT"]


async def test_an_administrator_of_one_namespace_moves_the_model_of_all(
    begin: Start, policy: Any, known_as: KnownAs, make_pack: Any
) -> None:
    policy.allow("operator", "of-operators", rights="administer")
    sidecar = await begin(packs=[make_pack("a"), make_pack("b", "other", seed=1)])
    shop, operator = known_as(sidecar, "shop"), known_as(sidecar, "operator")
    await shop.upsert({"a": "of the shop"})
    for _ in range(3):
        await shop.embed("popular")
    request = cache_pb2.MigrateModelRequest(to="other", popular=10)
    stages = [each async for each in operator.caches.MigrateModel(request, timeout=HANG_GUARD)]
    assert stages[-1].stage == cache_pb2.MigrateModelProgress.STAGE_SWITCHED
    response = await shop.embed("popular")
    assert response.model == "other"
    assert response.embeddings[0].tier == 1
    assert [each.id for each in (await shop.search("a query")).results] == ["a"]
