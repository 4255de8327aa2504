"""Tasks that work for all calls, whichever of them happens to need them first."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

T = TypeVar("T")


def create_shared_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task with no context, so that what it does and logs is not of the call that began it."""
    return asyncio.create_task(work, context=Context())
