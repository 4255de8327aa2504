"""Opens what generates text: models of this sidecar, or a service elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sidecar.cache.prefix_tiers import DiskBlocks, WarmBlocks
from sidecar.cache.sealed_tier import SealedBlocks
from sidecar.models.local_generator import LocalGenerator
from sidecar.models.openai_target import is_openai
from sidecar.models.packs import resolve
from sidecar.models.prefixes import Prefixes
from sidecar.open_models import check_name
from sidecar.open_openai import open_openai_generators

if TYPE_CHECKING:
    import contextlib

    from sidecar.cache.seals import Place, Seals
    from sidecar.config import Settings
    from sidecar.models.generation import Generator, PrefixTier
    from sidecar.models.prefix_loads import LowerBlocks
    from sidecar.open_tiers import Tiers

_FLUSH_SECONDS = 5.0

_log = structlog.get_logger()


async def open_generators(
    settings: Settings, tiers: Tiers, exits: contextlib.AsyncExitStack
) -> dict[str, Generator]:
    """The generators by their names. Raises `SetupError`."""
    if is_openai(settings.generator.target):
        return await open_openai_generators(settings, exits)
    generators: dict[str, Generator] = {}
    for pack in settings.generator.packs:
        folder = resolve(pack, settings.model.folder)
        check_name(folder.name, generators, "generator.packs")
        prefixes = _open_prefixes(settings, tiers)
        exits.push_async_callback(prefixes.close)
        generator = await asyncio.to_thread(
            LocalGenerator.load,
            folder,
            folder.name,
            provider=settings.model.provider,
            threads=settings.model.threads or None,
            parallel=settings.generator.parallel,
            queue=settings.generator.queue,
            block_tokens=settings.prefix.block_tokens,
            prefixes=prefixes,
        )
        exits.push_async_callback(generator.close)
        # First of all: what was read last is worth most to the next pod.
        exits.push_async_callback(prefixes.flush, _FLUSH_SECONDS)
        info = generator.info
        _log.info("generator loaded", model=info.name, version=info.version, runs_on=info.runs_on)
        generators[info.name] = generator
    return generators


def _open_prefixes(settings: Settings, tiers: Tiers) -> Prefixes:
    """Memory for the prompts of one generator: each has an equal share."""
    lower: list[tuple[PrefixTier, LowerBlocks]] = []
    if settings.prefix.shared and tiers.prompts_disk is not None:
        lower.append(("disk", _sealed(DiskBlocks(tiers.prompts_disk), tiers.seals, "disk")))
    if settings.prefix.shared and tiers.warm is not None:
        lower.append(("warm", _sealed(WarmBlocks(tiers.warm), tiers.seals, "warm")))
    return Prefixes(
        settings.prefix.max_bytes // len(settings.generator.packs),
        lower=lower,
        codec=settings.prefix.codec,
        ttl=settings.prefix.ttl,
    )


def _sealed(blocks: LowerBlocks, seals: Seals, place: Place) -> LowerBlocks:
    return SealedBlocks(blocks, seals.of(place, "prompts")) if seals.are_on else blocks
