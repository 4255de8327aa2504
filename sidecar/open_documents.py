"""Opens the index of documents, and looks after it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sidecar.index.open import open_index
from sidecar.index.types import IndexSetupError, IndexUnavailableError
from sidecar.open_tiers import keep_running

if TYPE_CHECKING:
    import contextlib

    from sidecar.cache.generations import Generations
    from sidecar.config import Settings
    from sidecar.index.types import Index

_FIRST_RETRY_SECONDS = 0.2
_LOOK_EVERY_SECONDS = 5.0
# What somebody has to change first.
_SETUP_RETRY_SECONDS = 30.0

_log = structlog.get_logger()


async def open_documents(
    settings: Settings, generations: Generations, exits: contextlib.AsyncExitStack
) -> Index:
    """The index of documents, or one that will be there later. Raises as `open_index` does, and
    `IndexSetupError` for one that was asked for and cannot be used.
    """
    url, password_file = settings.index.url.get_secret_value(), settings.index.password_file
    is_default = not url
    if is_default:
        url = settings.redis.url.get_secret_value() or "memory://"
        password_file = settings.redis.password_file
    index = open_index(
        url,
        prefix=settings.cache.prefix,
        redis_password_file=password_file,
        memory_bytes=settings.index.max_bytes,
    )
    exits.push_async_callback(index.close)
    reason = ""
    try:
        await index.start()
    except IndexUnavailableError as error:
        if isinstance(error, IndexSetupError) and not is_default:
            raise
        # Embed does without it, and so must the start of the sidecar.
        reason = str(error)
        _log.warning("the index cannot be used", reason=reason)
    keep_running(_look_after(index, generations, reason), exits)
    return index


async def _look_after(index: Index, generations: Generations, reason: str) -> None:
    """Starts the index if there is a ``reason`` why that failed, and sees whether it is the same.

    Whole responses that are stored are given without a word with the index, so that nobody else
    would find out that its documents are gone.
    """
    identity = "" if reason else index.identity
    delay = _FIRST_RETRY_SECONDS if reason else _LOOK_EVERY_SECONDS
    while True:
        await asyncio.sleep(delay)
        try:
            await index.start()
        except IndexSetupError as error:
            delay = _SETUP_RETRY_SECONDS
            if str(error) != reason:
                reason = str(error)
                _log.error("the index cannot be used", reason=reason)
        except IndexUnavailableError:
            delay = min(2 * delay, _LOOK_EVERY_SECONDS)
        else:
            delay, reason = _LOOK_EVERY_SECONDS, ""
            if index.identity != identity:
                _log.info("the index has other documents" if identity else "the index is there")
                identity = index.identity
                generations.restamp()
