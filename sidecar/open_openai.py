"""Opens models behind OpenAI-compatible services."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_target import is_openai, parse_names, parse_target
from sidecar.models.openai_tls import OpenAITls
from sidecar.open_tiers import keep_running

if TYPE_CHECKING:
    import contextlib

    from sidecar.config import Settings
    from sidecar.models.generation import Generator
    from sidecar.models.openai_client import OpenAIClient
    from sidecar.models.types import Embedder


async def open_openai_models(
    settings: Settings, exits: contextlib.AsyncExitStack
) -> dict[str, Embedder]:
    """The models of ``encoder.target`` by our names, in the order given. Raises `SetupError`."""
    names = parse_names(settings.model.packs, "model.packs")
    client = _open_client(settings, settings.encoder.target, "encoder.target", exits)
    from sidecar.models.openai_embedder import OpenAIEmbedder

    models = {
        ours: OpenAIEmbedder(ours, theirs, client, queue_inputs=settings.encoder.queue_inputs)
        for ours, theirs in names.items()
    }
    for model in models.values():
        exits.push_async_callback(model.close)
    # A service that is slow to answer is waited for once, not once for each model.
    await asyncio.gather(*(model.start() for model in models.values()))
    return dict(models)


async def open_openai_generators(
    settings: Settings, exits: contextlib.AsyncExitStack
) -> dict[str, Generator]:
    """The models of ``generator.target`` by our names, in the order given. Raises `SetupError`."""
    names = parse_names(settings.generator.packs, "generator.packs")
    client = _open_client(settings, settings.generator.target, "generator.target", exits)
    from sidecar.models.openai_generator import OpenAIGenerator

    generators: dict[str, Generator] = {}
    for ours, theirs in names.items():
        generator = OpenAIGenerator(
            ours,
            theirs,
            client,
            parallel=settings.generator.parallel,
            queue=settings.generator.queue,
        )
        exits.push_async_callback(generator.close)
        generators[ours] = generator
    return generators


def _open_client(
    settings: Settings, target: str, setting: str, exits: contextlib.AsyncExitStack
) -> OpenAIClient:
    key = OpenAIKey(settings.openai.key.get_secret_value(), settings.openai.key_file)
    parsed = parse_target(
        target, setting, has_key=bool(key.value), insecure=settings.openai.insecure_key
    )
    if key.value:
        _check_key_has_one_service(settings)
    try:
        from sidecar.models.openai_client import OpenAIClient
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise SetupError(
            f"{setting}: the package openai is missing; install embercache-sidecar[openai]"
        ) from None
    files = settings.openai
    tls = OpenAITls(files.ca_file, files.cert_file, files.cert_key_file)
    client = OpenAIClient(
        parsed, key, timeout=settings.openai.timeout, retries=settings.openai.retries, tls=tls
    )
    exits.push_async_callback(client.close)
    keep_running(tls.follow(client.renew), exits)
    return client


def _check_key_has_one_service(settings: Settings) -> None:
    """Raises `SetupError` if the key of one service would be shown to another."""
    targets = [("encoder.target", settings.encoder.target)]
    if settings.generator.packs:
        targets.append(("generator.target", settings.generator.target))
    hosts = {
        parse_target(target, setting, has_key=False, insecure=True).host
        for setting, target in targets
        if is_openai(target)
    }
    if len(hosts) > 1:
        raise SetupError(
            "openai.key: encoder.target and generator.target are two services, and both would get"
            " the key; use one service for both, or give the encoder's key to another sidecar and"
            " name that one in encoder.target, as HOST:PORT"
        )
