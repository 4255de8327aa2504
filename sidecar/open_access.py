"""Opens the policy of who may call, and keeps it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.live import Access
from sidecar.access.policy import PolicyError
from sidecar.models.errors import SetupError
from sidecar.open_tiers import keep_running

if TYPE_CHECKING:
    import contextlib

    from sidecar.config_security import AccessSettings


def open_access(settings: AccessSettings, exits: contextlib.AsyncExitStack) -> Access:
    """The policy in force, which follows its files until the context is left.

    Raises `SetupError` if it cannot be used.
    """
    try:
        access = Access(settings.policy_file)
    except PolicyError as error:
        raise SetupError(str(error)) from None
    if settings.policy_file is not None:
        keep_running(access.follow(), exits)
    return access
