"""The log of what is no HTTP."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp.http import HttpProcessingError
from aiohttp.log import server_logger

from sidecar.transport.handshakes import Handshakes

# aiohttp's words for a handshake of TLS in place of a request.
_HANDSHAKE = "Received HTTPS traffic on an HTTP port"


class BadRequestsInBrief(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's logger, but a request that cannot be parsed is one line at debug.

    Whoever reaches the port can send such requests, and the exception quotes them. Callers who
    speak TLS where there is none are told of, but not often.
    """

    def __init__(self, listener: str) -> None:
        super().__init__(server_logger)
        self._handshakes = Handshakes(listener)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.Logger.log`."""
        error = kwargs.get("exc_info")
        if isinstance(error, HttpProcessingError):
            level, kwargs["exc_info"] = logging.DEBUG, None
            if error.message == _HANDSHAKE:
                self._handshakes.failed_because(
                    "the caller speaks TLS, which this port does not: its URL has to begin with"
                    " http://, or set tls.cert_file"
                )
        super().log(level, msg, *args, **kwargs)
