"""Bytes of a hostile client of HTTP/2 to the front door, a process of its own: see door.py.

What it runs is no Python, so libFuzzer is not led by what inputs reach. So most inputs are chance
for frames that are made here of sound ones; the others are frames, whose lengths are right, or
bytes. Whatever they are, the connection ends, the process lives without a panic, another connection
goes on, and memory does not grow.
"""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = ()
MAX_BYTES = 4096
TOKENS = (
    ":path", ":method", "POST", ":authority", ":scheme", "http", "te", "trailers", "grpc-timeout",
    "grpc-encoding", "gzip", "content-type", "application/grpc", "content-length", "connection",
    "/fuzz.Door/Stored", "/fuzz.Door/Echo", "/fuzz.Door/Chat",
)  # fmt: skip
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW = range(9)
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# How the first byte says that the rest is to be read.
_FRAMES, _BYTES_AFTER_PREFACE, _BYTES = range(3)
_Frame = tuple[int, int, int, bytes]
_ODD_BYTES = (b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(8), b"\x80" * 20, bytes(16385))
_ANSWER_BYTES = 256 * 64
_HANG_SECONDS = 30.0
# What a process that has served some thousand hostile connections may have more than one that has
# served a few: what its allocator keeps.
_GROWTH_BYTES = 64 << 20
_FEW = 200


def _frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _block(path: str, *more: tuple[str, str]) -> bytes:
    headers = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
        ("content-type", "application/grpc"), ("te", "trailers"), *more,
    ]  # fmt: skip
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers
    )


_PADDED = _block("/fuzz.Door/Echo") + bytes(2)


def _call(stream: int, path: str, data: bytes, *more: tuple[str, str]) -> bytes:
    message = struct.pack(">BI", 0, len(data)) + data
    return _frame(_HEADERS, stream, _block(path, *more), _END_HEADERS) + _frame(
        _DATA, stream, message, _END_STREAM
    )


class _Door:
    """The process, and a connection to it that is never to notice anything."""

    def __init__(self) -> None:
        self._log = Path(tempfile.mkdtemp(prefix="fuzz-")) / "log"
        script = Path(__file__).parents[1] / "door.py"
        with self._log.open("wb") as log:
            # It ends with its input, which ends with this process.
            self._process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self._other = self.connect()
        self._other.sendall(_PREFACE + _frame(_SETTINGS))
        self._stream = 1
        self._runs = 0
        self._memory = 0

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), _HANG_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def check(self) -> None:
        """Raises if it has ended or panicked, if others are not served, or if it has grown."""
        assert self._process.poll() is None, self._log.read_text("utf-8", "replace")
        self._ask()
        self._runs += 1
        if self._runs % _FEW:
            return
        assert "panicked" not in (log := self._log.read_text("utf-8", "replace")), log
        pages = Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1]
        memory = int(pages) * 4096
        self._memory = self._memory or memory
        assert memory - self._memory < _GROWTH_BYTES, f"{memory - self._memory} bytes more"

    def _ask(self) -> None:
        """Calls for the stored answer on the other connection, and gets all of it."""
        stream, self._stream = self._stream, self._stream + 2
        self._other.sendall(_call(stream, "/fuzz.Door/Stored", b""))
        received = 0
        while True:
            head = self._read(9)
            length = int.from_bytes(head[:3], "big")
            kind, flags, number = struct.unpack(">BBI", head[3:])
            payload = self._read(length)
            if kind == _DATA:
                received += length
            if kind == _PING and not flags & _ACK:
                self._other.sendall(_frame(_PING, 0, payload, _ACK))
            assert kind not in (_GOAWAY, _RST_STREAM)
            if number == stream and flags & _END_STREAM and kind in (_DATA, _HEADERS):
                break
        if received:
            self._other.sendall(_frame(_WINDOW, 0, struct.pack(">I", received)))

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._other.recv(count - len(data))
            assert more, "the other connection was closed"
            data += more
        return data


@cache
def _door() -> _Door:
    return _Door()


def _sound() -> dict[str, list[_Frame]]:
    """What may be said, more or less."""
    return {
        "settings": [(_SETTINGS, 0, 0, struct.pack(">HI", 4, 1))],
        "stored": [(_SETTINGS, 0, 0, b""), *_parts(1, "/fuzz.Door/Stored", b"")],
        "echo": [(_SETTINGS, 0, 0, b""), *_parts(1, "/fuzz.Door/Echo", b"abc")],
        "chat": [
            *_parts(1, "/fuzz.Door/Chat", b"abc", flags=0),
            (_DATA, 0, 1, b"\0\0\0\0\1"),
            (_DATA, _END_STREAM, 1, b"a"),
        ],
        "two calls": [
            *_parts(1, "/fuzz.Door/Stored", b""), *_parts(3, "/fuzz.Door/Stored", b"other")
        ],
        "cancelled": [
            *_parts(1, "/fuzz.Door/Chat", b"a", flags=0), (_RST_STREAM, 0, 1, struct.pack(">I", 8))
        ],
        "windows": [
            (_SETTINGS, 0, 0, struct.pack(">HI", 4, 0)),
            *_parts(1, "/fuzz.Door/Stored", b""),
            (_WINDOW, 0, 1, struct.pack(">I", 5)),
            (_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)),
        ],
        "continued": [
            (_HEADERS, _END_STREAM, 1, _block("/fuzz.Door/Echo")[:20]),
            (9, _END_HEADERS, 1, _block("/fuzz.Door/Echo")[20:]),
        ],
        "padded": [
            (_HEADERS, _END_HEADERS | 0x28, 1, b"\2" + bytes(5) + _PADDED),
            (_DATA, _END_STREAM | 8, 1, b"\3\0\0\0\0\0\0\0\0"),
        ],
        "the rest": [
            (_PING, 0, 0, bytes(8)), (_PRIORITY, 0, 1, bytes(5)), (_PUSH, 4, 1, bytes(4)),
            (_GOAWAY, 0, 0, bytes(8)), (99, 255, 7, b"unknown"),
        ],
    }  # fmt: skip


def seeds() -> Iterator[bytes]:
    for frames in _sound().values():
        yield bytes([_FRAMES]) + b"".join(
            bytes([kind, flags, stream]) + struct.pack(">H", len(payload)) + payload
            for kind, flags, stream, payload in frames
        )
    timed = _call(1, "/fuzz.Door/Echo", b"a", ("grpc-timeout", "1S"))
    yield bytes([_BYTES_AFTER_PREFACE]) + _frame(_SETTINGS) + timed
    yield bytes([_BYTES]) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    yield bytes([_BYTES]) + _PREFACE + _frame(_SETTINGS)


def run(data: bytes) -> None:
    door = _door()
    with door.connect() as connection:
        try:
            connection.sendall(_sent(data))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except TimeoutError:
            raise AssertionError("the connection does not end") from None
        except OSError:
            pass  # it may be closed as soon as it is understood
    door.check()


def _parts(stream: int, path: str, data: bytes, flags: int = _END_STREAM) -> list[_Frame]:
    message = struct.pack(">BI", 0, len(data)) + data
    return [(_HEADERS, _END_HEADERS, stream, _block(path)), (_DATA, flags, stream, message)]


def _sent(data: bytes) -> bytes:
    """What an input stands for."""
    how, rest = (data[0], data[1:]) if data else (_BYTES, b"")
    if how == _BYTES:
        return rest
    if how == _BYTES_AFTER_PREFACE:
        return _PREFACE + rest
    if how != _FRAMES:
        return _made(random.Random(data))
    frames = [_PREFACE]
    while len(rest) >= 5:
        kind, flags, stream, length = struct.unpack(">BBBH", rest[:5])
        frames.append(_frame(kind, stream, rest[5 : 5 + length], flags))
        rest = rest[5 + length :]
    return b"".join(frames)


def _made(chance: random.Random) -> bytes:
    """Sound frames with some changes."""
    sound = list(_sound().values())
    frames = [
        (kind, flags, stream + 4 * number if stream else 0, payload)
        for number in range(chance.randint(1, 4))
        for kind, flags, stream, payload in chance.choice(sound)
    ]
    for _ in range(chance.randint(0, 6)):
        _change(frames, chance)
    sent = bytearray(_PREFACE)
    for kind, flags, stream, payload in frames:
        sent += _frame(kind, stream, payload, flags)
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        sent[chance.randrange(len(_PREFACE), len(sent))] = chance.randrange(256)
    return bytes(sent[: chance.choice((len(sent), len(sent), chance.randint(0, len(sent))))])


def _change(frames: list[_Frame], chance: random.Random) -> None:
    """Changes one frame, or copies it to another place, or takes it away."""
    place = chance.randrange(len(frames))
    kind, flags, stream, payload = frames[place]
    match chance.randrange(7):
        case 0:
            kind = chance.choice((*range(11), 255))
        case 1:
            flags = chance.choice((0, 1, 4, 5, 8, 0x20, flags ^ 1 << chance.randrange(8), 255))
        case 2:
            stream = chance.choice((0, 1, 2, 3, 5, 101, 2**31 - 1, 2**31, 2**32 - 1))
        case 3:
            payload = chance.choice(_ODD_BYTES)
        case 4 if payload:
            start = chance.randrange(len(payload))
            payload = payload[:start] + chance.choice(_ODD_BYTES) + payload[start + 1 :]
        case 5:
            times = chance.choice((1, 1, 200))
            frames[chance.randrange(len(frames)) : 0] = [frames[place]] * times
            return
        case 6 if len(frames) > 1:
            del frames[place]
            return
    frames[place] = (kind, flags, stream, payload)
