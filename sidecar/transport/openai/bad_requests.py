"""The log of what is no HTTP."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp.http import HttpProcessingError


class BadRequestsInBrief(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's logger, but a request that cannot be parsed is one line at debug.

    Whoever reaches the port can send such requests, and the exception quotes them.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.Logger.log`."""
        if isinstance(kwargs.get("exc_info"), HttpProcessingError):
            level, kwargs["exc_info"] = logging.DEBUG, None
        super().log(level, msg, *args, **kwargs)
