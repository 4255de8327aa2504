"""``embercache serve``: runs a sidecar."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click

from sidecar.app import serve as run
from sidecar.cache.disk import DiskLockedError
from sidecar.cache.redis_connect import RedisUrlError
from sidecar.cli.options import settings_options
from sidecar.descriptors import raise_limit
from sidecar.dev_redis import DevRedis, DevRedisError
from sidecar.index.open import IndexUrlError
from sidecar.index.types import IndexSetupError
from sidecar.models.errors import SetupError
from sidecar.models.packs import list_packs
from sidecar.telemetry.logging import configure_logging
from sidecar.transport.listening import ListenError

if TYPE_CHECKING:
    from sidecar.config import Settings

GENERATOR = "smollm2-135m"
# Sidecars for trying out may be several on a machine.
_SOME_PORT = "127.0.0.1:0"
_POPULAR_QUERIES = 1000
CANNOT_START = (
    SetupError,
    RedisUrlError,
    IndexUrlError,
    IndexSetupError,
    DiskLockedError,
    ListenError,
    DevRedisError,
    OSError,
)


@click.command()
@click.option(
    "--dev",
    is_flag=True,
    help="also start a private Redis, gone with the sidecar, generate with"
    f" {GENERATOR} if that was pulled and nothing else is set, and show the status page unless"
    " that is set to false, on some port unless server.metrics_address is set",
)
@settings_options
def serve(settings: Settings, dev: bool) -> None:
    """Run a sidecar until SIGTERM, then let calls in progress end.

    Secrets are set by environment or file: EMBERCACHE_REDIS_URL, EMBERCACHE_CACHE_SALT.

    \b
    Examples:
      embercache serve --dev
      EMBERCACHE_REDIS_URL=redis://redis:6379 embercache serve --hot-max-bytes 1GiB
      embercache serve --server-address "" --server-socket /run/embercache.sock
    """
    configure_logging(settings.log)
    raise_limit()
    try:
        with contextlib.ExitStack() as exits:
            if dev:
                settings = for_trying_out(settings, exits.enter_context(DevRedis()))
            asyncio.run(run(settings))
    except CANNOT_START as error:
        raise click.ClickException(str(error)) from error


def for_trying_out(settings: Settings, redis: DevRedis) -> Settings:
    """The settings, with that Redis, the status page, and a generator if there is one.

    Popular queries are tracked for the page: it all goes with the sidecar. What is set is left so.
    """
    values = settings.model_dump()
    values["redis"]["url"] = redis.url
    values["server"]["metrics_address"] = settings.server.metrics_address or _SOME_PORT
    if "status_page" not in settings.server.model_fields_set:
        values["server"]["status_page"] = True
    if "queries" not in settings.popular.model_fields_set:
        values["popular"]["queries"] = _POPULAR_QUERIES
    pulled = [each.pack.name for each in list_packs(settings.model.folder) if each.path]
    if not settings.generator.packs and GENERATOR in pulled:
        values["generator"]["packs"] = (GENERATOR,)
    return type(settings).model_validate(values)
