"""HTTP/2 by hand, as a client: what no library of gRPC would send, and what comes back of it.

Frames are those of RFC 9113, headers are coded as in RFC 7541. Nothing is checked of what is sent.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
CANCEL = 8
MAX_WINDOW = 2**31 - 1
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_MOST_BYTES_IN_A_FRAME = 16384

# RFC 7541, appendix A.
_STATIC: list[tuple[str, str]] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"),
    *((":status", status) for status in ("200", "204", "206", "304", "400", "404", "500")),
    ("accept-charset", ""), ("accept-encoding", "gzip, deflate"),
    *((name, "") for name in (  # noqa: SIM905
        "accept-language accept-ranges accept access-control-allow-origin age allow authorization"
        " cache-control content-disposition content-encoding content-language content-length"
        " content-location content-range content-type cookie date etag expect expires from host"
        " if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link"
        " location max-forwards proxy-authenticate proxy-authorization range referer refresh"
        " retry-after server set-cookie strict-transport-security transfer-encoding user-agent"
        " vary via www-authenticate"
    ).split()),
]  # fmt: skip
# Of the codes of all bytes, and of the end: appendix B, where they are in canonical order.
_CODE_BITS = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
]  # fmt: skip


class ClosedError(Exception):
    """The other side has closed the connection."""


@dataclass(frozen=True)
class Frame:
    """One frame, as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came on a stream.

    ``reset`` is the code of an RST_STREAM; ``closed`` tells that the connection ended before the
    stream did.
    """

    headers: list[tuple[str, str]] = field(default_factory=list)
    data: bytes = b""
    reset: int | None = None
    closed: bool = False

    @property
    def http_status(self) -> str | None:
        """The status of HTTP, if any came."""
        return dict(self.headers).get(":status")

    @property
    def grpc_status(self) -> int | None:
        """The status of gRPC, if any came."""
        status = dict(self.headers).get("grpc-status")
        return None if status is None else int(status)


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, flag: int = 0) -> bytes:
    """A message of gRPC: its flag, its length and itself."""
    return struct.pack(">BI", flag, len(data)) + data


def window_update(stream: int, octets: int) -> bytes:
    """Lets the other side send more."""
    return frame(WINDOW_UPDATE, stream, struct.pack(">I", octets))


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers, none of which the other side is to remember."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def call_headers(path: str, *more: tuple[str, str], method: str = "POST") -> list[tuple[str, str]]:
    """The headers of a call of gRPC; what is in ``more`` replaces those of its name."""
    headers = [
        (":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    ]  # fmt: skip
    names = {name for name, _ in more}
    return [each for each in headers if each[0] not in names] + list(more)


class Connection:
    """A connection as it is left to itself: it acknowledges settings and pings, and reads all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next = 1

    @classmethod
    async def open(cls, address: str, window: int = MAX_WINDOW) -> Connection:
        """Connects to a target of gRPC; streams may have ``window`` bytes that were not read."""
        if address.startswith("unix:"):
            streams = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            streams = await asyncio.open_connection(host, int(port))
        self = cls(*streams)
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, window)
        self.send(PREFACE, frame(SETTINGS, payload=settings))
        self.send(window_update(0, MAX_WINDOW - 65535))
        return self

    def send(self, *frames: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(b"".join(frames))

    async def sent(self) -> None:
        """Waits until what was sent is on its way."""
        await self._writer.drain()

    def open_stream(self, *headers: tuple[str, str], ends: bool = False) -> int:
        """Sends headers, the last for now unless it ``ends``; returns the stream's number."""
        stream, self._next = self._next, self._next + 2
        flags = END_HEADERS | (END_STREAM if ends else 0)
        self.send(frame(HEADERS, stream, block(headers), flags))
        return stream

    def send_data(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """Sends bytes on a stream."""
        starts = range(0, len(data), _MOST_BYTES_IN_A_FRAME) or range(1)
        for start in starts:
            is_last = ends and start == starts[-1]
            piece = data[start : start + _MOST_BYTES_IN_A_FRAME]
            self.send(frame(DATA, stream, piece, END_STREAM if is_last else 0))

    def call(self, path: str, data: bytes, *more: tuple[str, str], method: str = "POST") -> int:
        """Sends headers and bytes of a call, and that there are no more."""
        stream = self.open_stream(*call_headers(path, *more, method=method))
        self.send_data(stream, data, ends=True)
        return stream

    async def read(self) -> Frame:
        """The next frame. Raises `ClosedError`."""
        try:
            head = await self._reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise ClosedError from None
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, flags=ACK))
        if kind == PING and not flags & ACK:
            self.send(frame(PING, payload=payload, flags=ACK))
        return Frame(kind, flags, stream, payload)

    async def frames(self) -> AsyncIterator[Frame]:
        """All frames until the connection is closed."""
        while True:
            try:
                yield await self.read()
            except ClosedError:
                return

    async def answer(self, stream: int) -> Answer:
        """All that comes on a stream, until it or the connection has ended."""
        answer = Answer()
        async for each in self.frames():
            if each.stream != stream:
                continue
            if each.kind == HEADERS:
                answer.headers += decode_block(each.payload)
            elif each.kind == DATA:
                answer.data += each.payload
                self.send(window_update(0, len(each.payload))) if each.payload else None
            elif each.kind == RST_STREAM:
                answer.reset = int.from_bytes(each.payload, "big")
                return answer
            if each.kind in (HEADERS, DATA) and each.flags & END_STREAM:
                return answer
        answer.closed = True
        return answer

    async def until(self, kind: int, flags: int = 0) -> Frame:
        """The next frame of a kind. Raises `ClosedError`."""
        while True:
            each = await self.read()
            if each.kind == kind and each.flags & flags == flags:
                return each

    async def close(self) -> None:
        """Closes it."""
        self._writer.transport.abort()


def decode_block(data: bytes) -> list[tuple[str, str]]:
    """Headers, as they come from who was told to remember none."""
    headers, position = [], 0
    while position < len(data):
        first = data[position]
        if first & 0x80:
            index, position = _integer(data, position, 7)
            headers.append(_STATIC[index - 1])
        elif first & 0xE0 == 0x20:  # the size of a table
            _, position = _integer(data, position, 5)
        else:
            index, position = _integer(data, position, 6 if first & 0x40 else 4)
            if index:
                name = _STATIC[index - 1][0]
            else:
                name, position = _read_string(data, position)
            value, position = _read_string(data, position)
            headers.append((name, value))
    return headers


def _string(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, coded = len(data) - 127, b"\x7f"
    while rest > 127:
        coded += bytes([rest & 127 | 128])
        rest >>= 7
    return coded + bytes([rest]) + data


def _integer(data: bytes, position: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = data[position] & most
    position += 1
    if value < most:
        return value, position
    shift = 0
    while True:
        value += (data[position] & 127) << shift
        shift += 7
        position += 1
        if not data[position - 1] & 128:
            return value, position


def _read_string(data: bytes, position: int) -> tuple[str, int]:
    is_huffman = data[position] & 128
    length, position = _integer(data, position, 7)
    raw = data[position : position + length]
    return (_unpacked(raw) if is_huffman else raw).decode(), position + length


def _unpacked(data: bytes) -> bytes:
    text, bits, length = bytearray(), 0, 0
    for byte in data:
        for shift in range(7, -1, -1):
            bits, length = bits << 1 | byte >> shift & 1, length + 1
            if (symbol := _CODES.get((length, bits))) is not None:
                text.append(symbol)
                bits = length = 0
    return bytes(text)


def _codes() -> dict[tuple[int, int], int]:
    """Bytes by the length and the bits of their codes."""
    codes, code, previous = {}, 0, 0
    for length, symbol in sorted((bits, symbol) for symbol, bits in enumerate(_CODE_BITS)):
        code <<= length - previous
        codes[length, code] = symbol
        code, previous = code + 1, length
    return codes


_CODES = _codes()
