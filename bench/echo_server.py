"""A bare grpcio asyncio server: answers any unary call with the same bytes. The reference."""

from __future__ import annotations

import asyncio
import sys

import grpc


class _Anything(grpc.GenericRpcHandler):
    def __init__(self, response: bytes) -> None:
        async def answer(_request: bytes, _context: object) -> bytes:
            return response

        self._handler = grpc.unary_unary_rpc_method_handler(answer)

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handler


async def _main(address: str, response: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Anything(response)])
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], bytes.fromhex(sys.argv[2])))
