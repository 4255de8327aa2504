"""Asks a service of the user's whether a semantic answer may be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog
from embercache.v1 import verifier_pb2, verifier_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS: Sequence[tuple[str, int]] = (
    # One that comes back must be noticed within seconds, not minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_log = structlog.get_logger()


@dataclass(slots=True)
class VerifierCounters:
    """Calls since start-up, by what the verifier said; those that failed or came late apart."""

    accepted: int = 0
    refused: int = 0
    failed: int = 0


class Verifier:
    """A `SemanticVerifier` at a gRPC address. Without an answer from it, nothing is accepted.

    ``target`` is an address such as ``127.0.0.1:9090`` or ``unix:/run/verifier.sock``, and is
    spoken to without encryption; ``timeout`` is in seconds, for one call. Used from one event loop.
    """

    def __init__(self, target: str, timeout: float) -> None:
        self.counters = VerifierCounters()
        self._target = target
        self._timeout = timeout
        self._is_failing = False
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._stub = verifier_pb2_grpc.SemanticVerifierStub(self._channel)

    async def accepts(
        self, kind: str, namespace: str, query: str, matched_query: str, similarity: float
    ) -> bool:
        """Whether the answer to ``matched_query`` may be given to ``query``. Never raises."""
        request = verifier_pb2.VerifyRequest(
            kind=kind,
            namespace=namespace,
            query=query,
            matched_query=matched_query,
            similarity=similarity,
        )
        try:
            response = await self._stub.Verify(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            self.counters.failed += 1
            self._note(error.code())
            return False
        self._note(None)
        if response.accept:
            self.counters.accepted += 1
        else:
            self.counters.refused += 1
        return response.accept

    async def close(self) -> None:
        """Ends the calls under way."""
        await self._channel.close()

    def _note(self, failure: grpc.StatusCode | None) -> None:
        """Logs when the verifier begins or ceases to fail."""
        if (failure is not None) == self._is_failing:
            return
        self._is_failing = failure is not None
        if failure is not None:
            # Not its message, which may quote a query.
            _log.warning("the verifier fails", target=self._target, reason=failure.name)
        else:
            _log.info("the verifier answers", target=self._target)
