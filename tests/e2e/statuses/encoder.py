"""An encoder that tells of its models, and does nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from embercache.v1 import embed_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def refusing_encoder(
    code: grpc.StatusCode, details: str, *trailers: tuple[str, str]
) -> AsyncIterator[str]:
    """The address of an encoder that ends with this whatever it is to compute."""

    async def list_models(_raw: bytes, _context: Any) -> bytes:
        model = embed_pb2.Model(name="tiny", version="1", dimensions=2, accepts_text=True)
        return embed_pb2.ListModelsResponse(models=[model]).SerializeToString()

    async def embed(_raw: bytes, context: Any) -> bytes:
        await context.abort(code, details, trailers)
        raise AssertionError

    async def rerank(raw: bytes, context: Any) -> bytes:
        if search_pb2.RerankRequest.FromString(raw).passages:
            await context.abort(code, details, trailers)
        response = search_pb2.RerankResponse(reranker="tiny-maxsim", reranker_version="1")
        return response.SerializeToString()

    services = {
        "Embed": {"Embed": embed, "ListModels": list_models},
        "Search": {"Rerank": rerank},
    }
    server = grpc.aio.server()
    for name, methods in services.items():
        handlers = {each: grpc.unary_unary_rpc_method_handler(m) for each, m in methods.items()}
        service = f"embercache.v1.{name}Service"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)
