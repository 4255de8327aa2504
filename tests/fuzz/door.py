"""What ``front_door`` attacks, as a process: it prints its port, and lives as long as its input.

The native front door, where it is, with one stored answer, before a server that echoes; else that
server alone.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

try:
    from embercache_native import Answer, Front, HotTier, Tally
except ImportError:
    Front = None  # type: ignore[assignment,misc]

from sidecar.cache.accounts import Account

ECHO, STORED = "/fuzz.Door/Echo", "/fuzz.Door/Stored"
PERSONAL = b"stored"


def _server() -> grpc.Server:
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    chat = grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)
    handlers = {"Echo": handler, "Stored": handler, "Chat": chat}
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("fuzz.Door", handlers)])
    return server


def _serve_native(server: grpc.Server) -> int:
    path = os.path.join(tempfile.mkdtemp(prefix="fuzz-"), "s")
    server.add_insecure_port(f"unix:{path}")
    server.start()
    hot: HotTier[None] = HotTier(1 << 20, time.monotonic)
    key = hashlib.blake2b(b"", digest_size=16, person=PERSONAL).digest()
    data = bytes(range(256)) * 64
    hot.put(key, None, len(data), Account("embed", "", ""))
    hot.answer(key, Answer(data, [], [], Tally(), 1, 1))
    methods = {STORED: PERSONAL.decode()}
    front = Front(hot, path, methods, secret=path, bounds=[0.1], most_connections=100)
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port: int = listener.getsockname()[1]
    front.listen(listener.detach(), "tcp")
    _kept.append(front)
    return port


_kept: list[object] = []

if __name__ == "__main__":
    behind = _server()
    if Front is None:
        port = behind.add_insecure_port("127.0.0.1:0")
        behind.start()
    else:
        port = _serve_native(behind)
    print(port, flush=True)
    sys.stdin.read()
    os._exit(0)
