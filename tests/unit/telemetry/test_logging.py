"""Logs say where an error came from, and nothing that a user sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog

from sidecar.config import ServerSettings
from sidecar.config_telemetry import LogSettings
from sidecar.telemetry.logging import configure_logging
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

GRPC = "grpc._cython.cygrpc"
HANG_GUARD = 30.0


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Puts the configuration of both libraries back."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    filters = {name: logging.getLogger(name).filters[:] for name in ("asyncio", GRPC)}
    yield
    for name, kept in filters.items():
        logging.getLogger(name).filters[:] = kept
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def fail(text: str) -> None:
    try:
        int(text)
    except ValueError as error:
        raise KeyError(text) from error


def with_structlog(message: str) -> None:
    structlog.get_logger().exception(message)


def with_standard_library(message: str) -> None:
    logging.getLogger("library").exception(message)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("log", [with_structlog, with_standard_library])
def test_a_logged_error_tells_its_kind_and_place_but_no_value(
    log: Callable[[str], Any], form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings(format=form))
    text = "the text " + "of a user"  # the lines of the program are shown
    try:
        fail(text)
    except KeyError:
        log("it failed")
    shown = capsys.readouterr().err
    assert "it failed" in shown
    assert "builtins.ValueError" in shown
    assert "builtins.KeyError" in shown
    assert "in fail" in shown
    assert text not in shown


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json", level="warning"))
    structlog.get_logger().info("left out")
    structlog.get_logger().warning("kept", number=1)
    logging.getLogger("library").warning("also %s", "kept")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["number"]) == ("kept", "warning", 1)
    assert second["event"] == "also kept"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def call_with(metadata: bytes, path: bytes = b"/grpc.health.v1.Health/Check") -> bytes:
    """A connection with one call, whose token is the ``metadata``."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"authorization": metadata,
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    )
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
    return preface + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5))


async def test_metadata_that_is_no_text_is_logged_once_and_not_quoted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="json"))
    server = GrpcServer(ServerSettings(address="127.0.0.1:0", drain_delay=0), [])
    await server.start()
    for _ in range(3):
        reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
        writer.write(call_with(b"Bearer \xff\xfe a-secret"))
        async with asyncio.timeout(HANG_GUARD):
            await reader.readuntil(b"grpc-status")
        writer.close()
    await server.drain()
    shown = capsys.readouterr().err
    assert "a-secret" not in shown
    (line,) = map(json.loads, shown.splitlines())
    assert line["event"].startswith("metadata of a call is not UTF-8")
    assert "exception" not in line


@contextlib.asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[str]:
    """The address of a server that answers /tests.Probe/Pieces so."""
    method = grpc.unary_stream_rpc_method_handler(answer)
    handlers = [grpc.method_handlers_generic_handler("tests.Probe", {"Pieces": method})]
    server = GrpcServer(ServerSettings(address="127.0.0.1:0", drain_delay=0), handlers)
    await server.start()
    yield server.addresses[0]
    await server.drain()


async def test_a_caller_who_leaves_while_a_message_is_sent_to_him_is_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="json"))
    writing, ended = asyncio.Event(), asyncio.Event()

    async def answer(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        writing.set()
        try:
            # More than he takes without being asked for it.
            yield bytes(1 << 20)
        finally:
            ended.set()

    async with serving(answer) as address, asyncio.timeout(HANG_GUARD):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(call_with(b"none", b"/tests.Probe/Pieces"))
        await writing.wait()
        received = 0
        while received < 65535:  # the window of HTTP/2, so that the rest waits
            received += len(await reader.read(65535))
        writer.close()
        # The handler is closed after what grpcio says of the message.
        await ended.wait()
    assert "error" not in capsys.readouterr().err


async def test_an_error_of_a_handler_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json"))

    async def answer(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b""
        raise KeyError

    async with serving(answer) as address, grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_stream("/tests.Probe/Pieces")(b"")
        with pytest.raises(grpc.aio.AioRpcError):
            [_ async for _ in call]
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["exception"][-8:]) == ("error", "KeyError")
