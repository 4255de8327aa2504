"""Puts services on top of models, tiers and index, and gives each method its place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.cache.events import EventConsumer
from sidecar.cache.keys import Digests
from sidecar.cache.popular import PopularQueries
from sidecar.cache.redis_memory import RedisMemory
from sidecar.cache.semantic import SemanticIndex
from sidecar.cache.semantic_follower import SemanticFollower
from sidecar.cache.semantic_report import SemanticReport
from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.models.verifier import Verifier
from sidecar.open_ahead import open_migration, schedule_warming
from sidecar.open_documents import open_documents
from sidecar.open_known import recall_models
from sidecar.open_sealing import with_salt
from sidecar.open_tiers import keep_running
from sidecar.services.cache_admin import CacheAdmin
from sidecar.services.document_store import CachedDocuments
from sidecar.services.document_writes import DocumentWriter
from sidecar.services.documents import DocumentService
from sidecar.services.embed import EmbedService
from sidecar.services.embed_request import RequestReader
from sidecar.services.generate import GenerateService
from sidecar.services.generate_request import GenerateReader
from sidecar.services.invalidation import Invalidation
from sidecar.services.rerank import RerankService
from sidecar.services.scores import Scores
from sidecar.services.search import SearchService
from sidecar.services.search_request import SearchReader
from sidecar.services.semantic import SemanticAnswers
from sidecar.services.stored import StoredResponses
from sidecar.services.vectors import Vectors
from sidecar.services.warming import Warmer
from sidecar.transport.handlers import ServerStream, Stream, Unary
from sidecar.transport.openai.methods import Methods

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping, Sequence

    import grpc

    from sidecar.access.quotas import Quotas
    from sidecar.config import Settings
    from sidecar.index.types import Index
    from sidecar.models.generation import Generator
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Reranker
    from sidecar.open_tiers import Tiers
    from sidecar.services.model_migration import ModelMigration
    from sidecar.transport.handlers import Handlers


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that answers calls."""

    embed: EmbedService
    search: SearchService
    documents: DocumentService
    rerank: RerankService
    invalidation: Invalidation
    warmer: Warmer
    migration: ModelMigration
    index: Index
    admin: CacheAdmin
    generate: GenerateService
    embed_responses: StoredResponses
    search_responses: StoredResponses
    generate_responses: StoredResponses
    popular: PopularQueries | None

    @property
    def responses(self) -> Sequence[StoredResponses]:
        """The stored responses of all methods."""
        return self.embed_responses, self.search_responses, self.generate_responses


async def open_services(
    settings: Settings,
    models: ModelRouter,
    rerankers: Mapping[str, Reranker],
    generators: Mapping[str, Generator],
    tiers: Tiers,
    quotas: Quotas,
    upstream: UpstreamAccess,
    exits: contextlib.AsyncExitStack,
) -> Services:
    """The services, ready to answer.

    Raises `SetupError`, `IndexUrlError` or `IndexSetupError`.
    """
    await recall_models(settings, [*models, *rerankers.values()], tiers, exits)
    settings = with_salt(settings)
    digests = Digests(settings.cache.salt.get_secret_value().encode())
    index = await open_documents(settings, tiers.generations, exits)
    popular = _open_popular(settings, tiers, digests, exits)
    note = popular.note if popular is not None else None
    stored = _kind_of_responses(tiers)
    embed_responses = stored("Embed", tiers.hot, note)
    search_responses = stored("Search", tiers.hot, note)
    generate_responses = stored("Generate", tiers.hot, note)
    generations, cache, accounts = tiers.generations, tiers.cache, tiers.accounts
    writer = DocumentWriter(index, generations, digests)
    exits.push_async_callback(writer.close)
    vectors = Vectors(cache, accounts, quotas, settings.cache)
    scores = Scores(cache, accounts, quotas, settings.cache)
    requests = RequestReader(
        models, settings.server, settings.model.normalise, settings.cache.namespace, digests
    )
    reader = SearchReader(requests, rerankers, settings.semantic)
    semantic = _open_semantic(settings, tiers, upstream, exits)
    embed = EmbedService(
        models=models,
        reader=requests,
        vectors=vectors,
        responses=embed_responses,
        generations=generations,
        quotas=quotas,
    )
    search = SearchService(
        requests=requests,
        reader=reader,
        index=index,
        cache=cache,
        accounts=accounts,
        vectors=vectors,
        scores=scores,
        semantic=semantic,
        responses=search_responses,
        generations=generations,
        quotas=quotas,
        settings=settings.cache,
        max_bytes=settings.server.max_message_bytes,
    )
    generation_reader = GenerateReader(
        requests, generators, settings.semantic, settings.generator.max_tokens
    )
    generate = GenerateService(
        requests=requests,
        reader=generation_reader,
        generators=generators,
        cache=cache,
        accounts=accounts,
        vectors=vectors,
        semantic=semantic,
        responses=generate_responses,
        generations=generations,
        quotas=quotas,
        settings=settings.cache,
    )
    invalidation = Invalidation(
        requests=requests,
        reader=reader,
        vectors=vectors,
        search=search,
        generation_reader=generation_reader,
        generate=generate,
        cache=cache,
        generations=generations,
    )
    if tiers.warm is not None:
        events = EventConsumer(tiers.warm, settings.cache.prefix, invalidation.apply)
        keep_running(events.run(), exits)
    warmer = Warmer(embed.embed, search.search, popular, requests.namespace)
    schedule_warming(settings, tiers, warmer, popular, exits)
    copied = CachedDocuments(requests, vectors, generations, writer)
    responses = (embed_responses, search_responses, generate_responses)
    return Services(
        embed=embed,
        search=search,
        documents=DocumentService(
            requests=requests,
            reader=reader,
            index=index,
            vectors=vectors,
            generations=generations,
            quotas=quotas,
            writer=writer,
            max_items=settings.server.max_batch_items,
        ),
        rerank=RerankService(
            requests=requests,
            reader=reader,
            scores=scores,
            generations=generations,
            quotas=quotas,
            max_passages=settings.server.max_batch_items,
        ),
        invalidation=invalidation,
        warmer=warmer,
        migration=await open_migration(
            settings, models, tiers, index, copied, warmer, popular, exits
        ),
        index=index,
        admin=_open_admin(settings, models, generators, tiers, quotas, responses, semantic, exits),
        generate=generate,
        embed_responses=embed_responses,
        search_responses=search_responses,
        generate_responses=generate_responses,
        popular=popular,
    )


def handlers(services: Services, make: Handlers) -> list[grpc.GenericRpcHandler]:
    """What the server is to call for each method."""
    embed, search = services.embed, services.search
    documents, admin, generate = services.documents, services.admin, services.generate
    invalidation, migration = services.invalidation, services.migration
    return [
        make.of(
            "embercache.v1.EmbedService",
            Embed=Unary(embed.embed, services.embed_responses.get),
            EmbedStream=Stream(embed.embed_stream),
            ListModels=Unary(embed.list_models),
        ),
        make.of(
            "embercache.v1.SearchService",
            Search=Unary(search.search, services.search_responses.get),
            Upsert=Unary(documents.upsert),
            Delete=Unary(documents.delete),
            Rerank=Unary(services.rerank.rerank),
        ),
        make.of(
            "embercache.v1.GenerateService",
            Generate=Unary(generate.generate, services.generate_responses.get),
            GenerateStream=ServerStream(generate.generate_stream),
            ListGenerators=Unary(generate.list_generators),
        ),
        make.of(
            "embercache.v1.CacheService",
            Stats=Unary(admin.stats),
            Invalidate=Unary(invalidation.invalidate),
            PublishEvents=Unary(invalidation.publish_events),
            Warm=ServerStream(services.warmer.warm),
            MigrateModel=ServerStream(migration.migrate),
            RollbackModel=Unary(migration.rollback),
            Flush=Unary(admin.flush),
        ),
    ]


def openai_methods(services: Services) -> Methods:
    """What the OpenAI-compatible API is to call."""
    return Methods(
        embed=services.embed.embed,
        stored_embed=services.embed_responses.get,
        list_models=services.embed.list_models,
        generate=services.generate.generate,
        stored_generate=services.generate_responses.get,
        open_stream=services.generate.open_stream,
        list_generators=services.generate.list_generators,
    )


def _kind_of_responses(tiers: Tiers) -> type[StoredResponses]:
    if not tiers.is_native:
        return StoredResponses
    from sidecar.services.front_answers import FrontAnswers

    return FrontAnswers


def _open_popular(
    settings: Settings, tiers: Tiers, digests: Digests, exits: contextlib.AsyncExitStack
) -> PopularQueries | None:
    if not settings.popular.queries:
        return None
    popular = PopularQueries(
        settings.popular.queries,
        tiers.warm,
        settings.cache.prefix,
        digests=digests,
        seal=tiers.seals.of("warm", "popular"),
    )
    exits.push_async_callback(popular.share)
    keep_running(popular.run(), exits)
    return popular


def _open_semantic(
    settings: Settings,
    tiers: Tiers,
    upstream: UpstreamAccess,
    exits: contextlib.AsyncExitStack,
) -> SemanticAnswers:
    chosen = settings.semantic
    index = SemanticIndex(chosen.entries, time.time)
    follower = verifier = None
    if tiers.warm is not None:
        follower = SemanticFollower(
            tiers.warm,
            settings.cache.prefix,
            index,
            chosen.entries,
            seal=tiers.seals.of("warm", "semantic"),
        )
        keep_running(follower.run(), exits)
    if chosen.verifier:
        verifier = Verifier(
            chosen.verifier,
            chosen.verifier_timeout,
            # The token is that of the encoders.
            access=UpstreamAccess(upstream.tls),
        )
        exits.push_async_callback(verifier.close)
    return SemanticAnswers(index, SemanticReport(), follower=follower, verifier=verifier)


def _open_admin(
    settings: Settings,
    models: ModelRouter,
    generators: Mapping[str, Generator],
    tiers: Tiers,
    quotas: Quotas,
    responses: Sequence[StoredResponses],
    semantic: SemanticAnswers,
    exits: contextlib.AsyncExitStack,
) -> CacheAdmin:
    memory = RedisMemory(tiers.warm) if tiers.warm is not None else None
    if memory is not None:
        keep_running(memory.run(), exits)
    return CacheAdmin(
        models=models,
        generators=generators.values(),
        accounts=tiers.accounts,
        quotas=quotas,
        responses=responses,
        semantic=semantic.report,
        cache=tiers.cache,
        hot=tiers.hot,
        disk=tiers.disk,
        prompts_disk=tiers.prompts_disk,
        warm=tiers.warm,
        memory=memory,
        follower=tiers.follower,
        seals=tiers.seals,
        prices=settings.prices,
    )
