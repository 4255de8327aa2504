"""What makes hits cost almost nothing: the hot tier and the listeners of gRPC, in Rust.

`sidecar.cache.hot.HotTier` and `sidecar.transport.server.GrpcServer` do the same without it.
"""

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, final

from sidecar.cache.accounts import Account

T = TypeVar("T")

__version__: str
"""That of the sidecar that it is made for."""

ENTRY_OVERHEAD_BYTES: int
"""What an entry costs beside its key and payload."""

@final
class Cell:
    """A number that other threads read without the interpreter's lock. From -2**63 to 2**63-1."""

    def __init__(self, value: int = 0) -> None: ...
    value: int

@final
class Tally:
    """What answers were worth that the front door gave, by whose account they count."""

    def take(self) -> tuple[int, int, int, list[bytes]]:
        """Calls, items and tokens since this was called last, and a sample of popular requests.

        Of the calls whose answer holds its ``request``, every sixteenth has it in the sample, of
        which 256 at most are kept.
        """

@final
class Answer:
    """What the front door says to a request, as long as every cell has the number it had.

    ``data`` is the response, ``ages`` are the offsets in it of ages, as fixed64 in milliseconds,
    and when what they are the ages of was made, in milliseconds since 1970. ``guards`` are cells
    and the numbers that they had. Each time, ``items`` and ``tokens`` are added to the ``tally``.
    ``request`` is given for what may be popular.

    Raises `ValueError` for an offset that is not in the data, or that is not behind the one before,
    and for more data than a gRPC message may have.
    """

    def __init__(
        self,
        data: bytes,
        ages: Sequence[tuple[int, int]],
        guards: Sequence[tuple[Cell, int]],
        tally: Tally,
        items: int,
        tokens: int,
        request: bytes | None = None,
    ) -> None: ...
    def at(self, now_ms: int) -> bytes | None:
        """The response with the ages of that moment; None if a cell has another number now."""

@final
class HotEntry(Generic[T]):
    """See `sidecar.cache.hot.HotEntry`."""

    value: T
    stamp: int
    @property
    def size(self) -> int: ...
    @property
    def account(self) -> Account: ...
    @property
    def since(self) -> float: ...
    @property
    def expires(self) -> float: ...
    @property
    def hits(self) -> int: ...

@final
class HotCounters:
    """See `sidecar.cache.hot.HotCounters`."""

    @property
    def evictions(self) -> int: ...
    @property
    def expirations(self) -> int: ...

@final
class HotTier(Generic[T]):
    """See `sidecar.cache.hot.HotTier`, which does the same, save `answer`.

    Only `answer` is for the front door, whose threads find answers by key without the interpreter's
    lock; each hit of theirs counts for the entry as `get` does. Under ``"lru"`` they do not move
    it to the end of the queue: it is moved when its turn to go comes, and spared. A place in the
    queue of a namespace with a limit costs nothing more.

    Raises `ValueError` for a policy that there is not. What its clock, ``limit_of`` and accounts
    raise passes through.
    """

    @property
    def bytes(self) -> int: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def counters(self) -> HotCounters: ...
    def __init__(
        self,
        capacity_bytes: int,
        clock: Callable[[], float],
        policy: Literal["s3fifo", "lru"] = "s3fifo",
    ) -> None: ...
    def __len__(self) -> int: ...
    def get(self, key: builtins.bytes) -> HotEntry[T] | None: ...
    def put(
        self,
        key: builtins.bytes,
        value: T,
        payload_bytes: int,
        account: Account,
        *,
        ttl: float = ...,
        stamp: int = 0,
    ) -> None: ...
    def answer(self, key: builtins.bytes, answer: Answer) -> None:
        """Lets the front door say that for a key of 16 bytes, as long as its entry is here.

        Without an entry, nothing is done. Its clock is then CLOCK_MONOTONIC, that of
        `time.monotonic`. Raises `ValueError` for a key of another length.
        """
    def remove(self, key: builtins.bytes) -> None: ...
    def limit(self, limit_of: Callable[[str], int] | None) -> None: ...
    def clear(self) -> int: ...
    def ages(self) -> dict[Account, float]: ...

@final
class Front:
    """The listeners of gRPC: answers what is in ``hot``, and hands all else to ``backend``.

    ``backend`` is the Unix socket of a gRPC server. ``methods`` are the paths of calls that may be
    answered here, with what personalises the hash of their keys: the key of an answer is the
    BLAKE2b of 16 bytes of the message, salted with the scope of the caller. ``bounds`` are those of
    the histograms of `durations`, in seconds. At most ``most_connections`` are taken; more are
    closed at once. Connections end gracefully after ``max_connection_age`` seconds, give or take a
    tenth; 0 is for never. With ``traced``, only calls whose ``traceparent`` says that they are not
    sampled are answered here.

    Calls that are handed over have metadata more, and none of the caller's of these names:
    ``embercache-peer``, "unix" or "tcp", ``embercache-certificate-bin``, the URI and DNS names of the
    caller's certificate, else its common name, with a NUL between two, and ``embercache-front``, the
    ``secret``, which is printable ASCII: who shows it is this front door.
    """

    def __init__(
        self,
        hot: HotTier[Any],
        backend: str,
        methods: Mapping[str, str],
        *,
        secret: str,
        bounds: Sequence[float],
        most_connections: int,
        max_connection_age: float = 0.0,
        traced: bool = False,
    ) -> None: ...
    def set_certificate(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> None:
        """What TLS listeners show in handshakes from now on, in PEM, and who signs callers'.

        With ``client_ca``, callers have to show a certificate. Raises `ValueError`, which quotes no
        key.
        """
    def set_callers(
        self,
        tokens: Mapping[bytes, bytes],
        certificates: Mapping[str, bytes],
        on_socket: bytes | None,
    ) -> None:
        """Answers only callers who are known, by digest of their token, certificate or socket.

        Each has his scope, of 16 bytes. What others ask is handed over. A name of somebody who may
        not read has an empty one: the first name of a certificate that is known says who it is.
        Until this is called, nobody is told apart.
        """
    def listen(self, fd: int, kind: Literal["tcp", "tls", "unix"]) -> None:
        """Takes connections from a listening socket, which is the front's own from now on."""
    def trust(self, seconds: float) -> None:
        """Answers calls without Python for so long from now; after that, all are handed over.

        To be called again and again, so that answers are not given for long while nobody hears of
        what is invalidated. Until it is called first, there is no such limit.
        """
    def durations(self, path: str) -> tuple[list[int], float]:
        """Calls of a method answered here since this was called last, by duration; and the sum.

        The first numbers are of those up to each of the ``bounds``, the last is of all longer ones.
        """
    def drain(self, seconds: float) -> bool:
        """Takes no connections any more, and no calls; waits until those there are have ended.

        Says whether they have; after so many seconds what is left is closed. Lets go of the
        interpreter's lock.
        """
    @property
    def connections(self) -> int:
        """How many there are."""
    @property
    def failed_handshakes(self) -> int:
        """Connections that ended in their TLS handshake, or took too long for it."""
