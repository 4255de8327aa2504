"""Opens the policy of who may call, keeps it up to date, and puts it before the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.live import Access
from sidecar.access.policy import PolicyError
from sidecar.models.errors import SetupError
from sidecar.open_tiers import keep_running
from sidecar.open_watch import Watch
from sidecar.transport.guarded_handlers import GuardedHandlers
from sidecar.transport.openai.guarded import GuardedCalls

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
    if access.is_followed:
        keep_running(access.follow(), exits)
    return access


def guarded(watch: Watch, access: Access) -> Watch:
    """What makes handlers that obey the policy; where there is none, they have nothing to do."""
    if not access.is_followed:
        return watch
    return Watch(GuardedHandlers(watch.grpc, access), GuardedCalls(watch.openai, access))
