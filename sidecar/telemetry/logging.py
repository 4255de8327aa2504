"""Logs on standard error: JSON for machines, text for a terminal. They hold no text of users."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.spans import current
from sidecar.telemetry.repeated import OnceAMinute

if TYPE_CHECKING:
    from structlog.typing import EventDict

    from sidecar.config_telemetry import LogSettings

_GRPC = "grpc._cython.cygrpc"
_BAD_METADATA = "metadata of a call is not UTF-8; this is logged once a minute at most"
# What is sent for a call could not be: its caller has gone. Metadata that may not be sent fail
# alike, but ours are literals, and gRPC's core names such by itself.
_NOT_SENT = 'Failed "execute_batch"'


def configure_logging(settings: LogSettings) -> None:
    """Sends structlog's and the standard library's logs to standard error in one form."""
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer()] if as_text else [structlog.processors.JSONRenderer()]
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        name_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    level = getattr(logging, settings.level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                trace_without_values,
                *renderer,
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("asyncio").addFilter(OnceAMinute("socket.accept() out of system resource"))
    grpc = logging.getLogger(_GRPC)
    grpc.addFilter(_is_no_caller_who_left)
    grpc.addFilter(_without_metadata)
    grpc.addFilter(OnceAMinute(_BAD_METADATA))


def _is_no_caller_who_left(record: logging.LogRecord) -> bool:
    """Whether a record of grpcio tells more than that a caller did not wait for his answer.

    grpcio means to leave that out, but knows of it only if it is told of the end of the call before
    it is told that what was being sent cannot be. With a message half sent it is the other way.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not str(error).startswith(_NOT_SENT)


def _without_metadata(record: logging.LogRecord) -> bool:
    """Takes out what grpcio quotes of metadata that is not UTF-8: it may be a secret."""
    if str(record.msg).startswith("Invalid encoding on"):
        record.msg, record.args, record.exc_info = _BAD_METADATA, (), None
    return True


def name_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Puts in the trace of the call that is at work, if it is traced."""
    if trace_id := current().trace_id:
        event["trace_id"] = trace_id
    return event


def trace_without_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Puts where an exception came from in the place of the exception.

    Neither its message nor any variable is shown: both may hold the text of a user.
    """
    found = event.pop("exc_info", None)
    if isinstance(found, tuple):
        found = found[1]
    error = found if isinstance(found, BaseException) else sys.exc_info()[1] if found else None
    if error is not None:
        event["exception"] = "\nwhich led to\n".join(_traces(error))
    return event


def _traces(error: BaseException | None) -> list[str]:
    """The trace of an exception, behind those of its causes."""
    traces: list[str] = []
    while error is not None:
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        traces.insert(0, "".join(traceback.format_tb(error.__traceback__)) + name)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return traces
