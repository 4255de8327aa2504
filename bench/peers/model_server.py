"""The encoder behind OpenAI's embeddings protocol, for caches that stand before a server.

    python -m bench.peers.model_server FOLDER PORT

``GET /computed`` says how many texts it has computed.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from bench.peers.encoder import Encoder


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    encoder: Encoder


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """How many texts were computed."""
        self._answer(self.server.encoder.computed)

    def do_POST(self) -> None:
        """Vectors for texts."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        vectors: list[object] = list(self.server.encoder(texts))
        if request.get("encoding_format") == "base64":
            vectors = [
                base64.b64encode(np.asarray(vector, np.float32).tobytes()).decode()
                for vector in vectors
            ]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        self._answer({"object": "list", "data": data, "model": request["model"], "usage": usage})

    def _answer(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


def main() -> None:
    """Serves until it is ended."""
    server = _Server(("127.0.0.1", int(sys.argv[2])), _Handler)
    server.encoder = Encoder(sys.argv[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
