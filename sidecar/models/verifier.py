"""Asks a service of the user's whether a semantic answer may be given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog
from embercache.v1 import verifier_pb2, verifier_pb2_grpc

from sidecar.cache.breaker import Breaker
from sidecar.models.pool_channel import KEEPALIVE
from sidecar.models.upstream_channel import UpstreamAccess, UpstreamChannel
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Sequence

_METHOD = "embercache.v1.SemanticVerifier/Verify"
_OPTIONS: Sequence[tuple[str, int]] = (
    # One that comes back must be noticed within seconds, not minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    *KEEPALIVE,
)

_log = structlog.get_logger()


@dataclass(slots=True)
class VerifierCounters:
    """Questions since start-up, by what the verifier said; those without an answer apart.

    ``failed`` are calls that failed or came late, ``skipped`` those not made after such failures.
    """

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    skipped: int = 0


class Verifier:
    """A `SemanticVerifier` at a gRPC address. Without an answer from it, nothing is accepted.

    After five failures in a row it is left alone for about a second, or longer if it goes on
    failing, up to 15 seconds; then the next question finds out whether it is back. Used from one
    event loop.

    Args:
        target: an address such as ``127.0.0.1:9090`` or ``unix:/run/verifier.sock``; the latter is
            spoken to without encryption.
        timeout: seconds for all questions of one search together.
        breaker: decides when it is left alone.
        access: how it is checked.
    """

    def __init__(
        self,
        target: str,
        timeout: float,
        breaker: Breaker | None = None,
        access: UpstreamAccess = UpstreamAccess(),  # noqa: B008 - it never changes
    ) -> None:
        self.counters = VerifierCounters()
        self._target = target
        self._timeout = timeout
        self._breaker = breaker or Breaker("verifier", first_seconds=1.0)
        self._is_failing = False
        self._channel = UpstreamChannel(target, _OPTIONS, access)
        self._stub = verifier_pb2_grpc.SemanticVerifierStub(self._channel.for_stubs())

    def deadline(self) -> float:
        """When a search that asks its first question now must have all answers; monotonic."""
        return time.monotonic() + self._timeout

    async def accepts(
        self,
        kind: str,
        namespace: str,
        query: str,
        matched_query: str,
        similarity: float,
        deadline: float,
    ) -> bool | None:
        """Whether the answer to ``matched_query`` may be given to ``query``. Never raises.

        None if nobody says it: it failed, did so again and again of late, or ``deadline`` passed.
        """
        is_probe = not self._breaker.closed
        if is_probe and not self._breaker.begin_probe():
            self.counters.skipped += 1
            return None
        request = verifier_pb2.VerifyRequest(
            kind=kind,
            namespace=namespace,
            query=query,
            matched_query=matched_query,
            similarity=similarity,
        )
        accepted: bool | None = None
        is_telling = False
        left = max(0.0, deadline - time.monotonic())
        try:
            with current().call("grpc", _METHOD, self._target) as span:
                answer = await self._stub.Verify(request, timeout=left, metadata=span.headers())
                span.answered("OK")
            accepted, is_telling = answer.accept, True
        except grpc.aio.AioRpcError as error:
            # Earlier questions of the search may have used up its time.
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            is_telling = not is_late or left >= self._timeout / 2
            self._failed(error.code(), is_telling)
        else:
            self._answered(accepted)
        finally:
            if is_probe and is_telling:
                self._breaker.end_probe(succeeded=accepted is not None)
            elif is_probe:
                # Whoever asked may have gone away, too.
                self._breaker.abandon_probe()
        return accepted

    async def close(self) -> None:
        """Ends the calls under way."""
        await self._channel.close()

    def _answered(self, accepted: bool) -> None:
        if accepted:
            self.counters.accepted += 1
        else:
            self.counters.refused += 1
        self._breaker.succeeded()
        if self._is_failing:
            self._is_failing = False
            _log.info("the verifier answers", target=self._target)

    def _failed(self, code: grpc.StatusCode, is_telling: bool) -> None:
        self.counters.failed += 1
        if not is_telling:
            return
        if not self._is_failing:
            self._is_failing = True
            # Not its message, which may quote a query.
            _log.warning("the verifier fails", target=self._target, reason=code.name)
        self._breaker.failed(code.name)
