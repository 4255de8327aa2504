"""Models of OpenAI-compatible services as settings open them: keys, time-outs, the environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from sidecar import __version__
from sidecar.config import ServerSettings, Settings
from sidecar.models.errors import SetupError
from sidecar.models.generation import Completion, Generation, GenerationRequest, Sampling
from sidecar.models.types import ModelError, ModelUnavailableError
from sidecar.open_openai import open_openai_generators, open_openai_models

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HANG_GUARD = 20.0
KEY = "sk-test-1"


@pytest.fixture
async def exits() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return path


def configure(target: str, packs: str = "ours=theirs", **openai: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": {"packs": packs},
            "encoder": {"target": target},
            "generator": {"packs": packs, "target": target},
            "openai": {"timeout": HANG_GUARD} | openai,
        }
    )


def generating_at(target: str, settings: Settings, **generator: Any) -> Settings:
    """The settings with another service for generations."""
    changed = settings.generator.model_copy(update={"target": target} | generator)
    return settings.model_copy(update={"generator": changed})


async def embed(models: Any, name: str = "ours") -> Any:
    return await asyncio.wait_for(models[name].submit(["text"])[0], HANG_GUARD)


def generate(generators: Any, name: str = "ours") -> Generation:
    generation = Generation()
    request: Any = GenerationRequest("text", Sampling(max_tokens=4), scope=None)  # type: ignore[arg-type]
    generators[name].start(request, generation)
    return generation


async def test_models_have_our_names_and_the_service_hears_its_own(
    openai_server: Any, exits: Any
) -> None:
    settings = configure(openai_server.target, "ours=org/theirs,plain")
    models = await open_openai_models(settings, exits)
    generators = await open_openai_generators(settings, exits)
    assert list(models) == list(generators) == ["ours", "plain"]
    assert [models[name].info.name for name in models] == ["ours", "plain"]
    assert (await embed(models, "plain")).vector.shape == (4,)
    assert isinstance(await asyncio.wait_for(generate(generators), HANG_GUARD), Completion)
    assert [body["model"] for _, _, body in openai_server.calls[-2:]] == ["plain", "org/theirs"]


async def test_a_name_that_cannot_be_ours_names_its_setting(openai_server: Any, exits: Any) -> None:
    settings = configure(openai_server.target, "org/theirs")
    with pytest.raises(SetupError, match=r"^model\.packs: "):
        await open_openai_models(settings, exits)
    with pytest.raises(SetupError, match=r"^generator\.packs: "):
        await open_openai_generators(settings, exits)


async def test_without_the_package_openai_it_says_what_to_install(
    openai_server: Any, exits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sidecar.models.openai_client", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SetupError, match=r"install embercache-sidecar\[openai\]"):
        await open_openai_models(configure(openai_server.target), exits)


# The key


async def test_a_service_without_keys_gets_none(openai_server: Any, exits: Any) -> None:
    await embed(await open_openai_models(configure(openai_server.target), exits))
    assert all("Authorization" not in headers for _, headers, _ in openai_server.calls)


async def test_the_key_is_sent(openai_server: Any, exits: Any) -> None:
    openai_server.keys = {KEY}
    settings = configure(openai_server.target, key=KEY)
    await embed(await open_openai_models(settings, exits))
    generation = generate(await open_openai_generators(settings, exits))
    assert isinstance(await asyncio.wait_for(generation, HANG_GUARD), Completion)


async def test_the_key_in_a_file_goes_before_the_other(
    openai_server: Any, exits: Any, key_file: Path
) -> None:
    openai_server.keys = {KEY}
    settings = configure(openai_server.target, key="another", key_file=key_file)
    await embed(await open_openai_models(settings, exits))


async def test_a_key_that_is_changed_in_its_file_is_used_without_a_restart(
    openai_server: Any, exits: Any, key_file: Path
) -> None:
    openai_server.keys = {KEY}
    settings = configure(openai_server.target, key_file=key_file)
    models = await open_openai_models(settings, exits)
    generators = await open_openai_generators(settings, exits)
    key_file.write_text("sk-test-2")
    await embed(models)
    assert openai_server.calls[-1][1]["Authorization"] == f"Bearer {KEY}"
    openai_server.keys = {"sk-test-2"}
    several = [models["ours"].submit([text])[0] for text in ("one", "", "three")]
    await asyncio.wait_for(asyncio.gather(*several), HANG_GUARD)
    assert isinstance(await asyncio.wait_for(generate(generators), HANG_GUARD), Completion)
    before = len(openai_server.calls)
    await embed(models)
    assert len(openai_server.calls) == before + 1


@pytest.mark.parametrize("change", ["none", "gone", "broken"])
async def test_a_key_that_is_refused_is_an_error_that_says_where_to_look(
    change: str, openai_server: Any, exits: Any, key_file: Path
) -> None:
    openai_server.keys = {KEY}
    models = await open_openai_models(configure(openai_server.target, key_file=key_file), exits)
    openai_server.keys = {"sk-test-2"}
    if change == "gone":
        key_file.unlink()
    elif change == "broken":
        key_file.write_text("two words")
    before = len(openai_server.calls)
    with pytest.raises(ModelError, match=r"status 401 \(invalid_api_key\).*key_file") as refused:
        await embed(models)
    assert KEY not in str(refused.value)
    assert len(openai_server.calls) == before + 1


@pytest.mark.parametrize("content", [None, b"", b"two words", b"two\nlines", b"\xff"])
async def test_a_file_without_a_key_stops_the_start(
    content: bytes | None, openai_server: Any, exits: Any, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"^openai\.key_file: ") as refused:
        await open_openai_models(configure(openai_server.target, key_file=path), exits)
    assert str(path) in str(refused.value)
    assert "words" not in str(refused.value)


async def test_a_key_with_spaces_is_none(openai_server: Any, exits: Any) -> None:
    with pytest.raises(SetupError, match=r"^openai\.key: ") as refused:
        await open_openai_models(configure(openai_server.target, key="two words"), exits)
    assert "words" not in str(refused.value)


async def test_a_key_in_clear_text_to_another_machine_is_refused(exits: Any) -> None:
    listeners = ServerSettings(insecure=True)  # which is not said of services
    settings = configure("openai+http://vllm.example:8000/v1", key=KEY).model_copy(
        update={"server": listeners}
    )
    with pytest.raises(SetupError, match=r"^encoder\.target: .*without encryption"):
        await open_openai_models(settings, exits)
    with pytest.raises(SetupError, match=r"^generator\.target: .*without encryption"):
        await open_openai_generators(settings, exits)


@pytest.mark.parametrize("holds", ["key", "key_file"])
async def test_a_key_for_two_services_is_refused(
    holds: str, openai_server: Any, exits: Any, key_file: Path
) -> None:
    openai = {"key": KEY} if holds == "key" else {"key_file": key_file}
    settings = configure(openai_server.target, **openai)
    settings = generating_at(openai_server.target.replace("127.0.0.1", "localhost"), settings)
    for open_ in (open_openai_models, open_openai_generators):
        with pytest.raises(SetupError, match=r"^openai\.key: .*are two services"):
            await open_(settings, exits)
    assert openai_server.calls == []


async def test_two_services_without_a_key_are_served(openai_server: Any, exits: Any) -> None:
    settings = configure(openai_server.target)
    settings = generating_at(openai_server.target.replace("127.0.0.1", "localhost"), settings)
    await embed(await open_openai_models(settings, exits))
    generation = generate(await open_openai_generators(settings, exits))
    assert isinstance(await asyncio.wait_for(generation, HANG_GUARD), Completion)


async def test_a_target_without_generators_is_no_second_service(
    openai_server: Any, exits: Any
) -> None:
    settings = configure(openai_server.target, key=KEY)
    settings = generating_at("openai://other.example/v1", settings, packs=())
    await embed(await open_openai_models(settings, exits))


# What is sent and what is logged


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_no_proxy_of_the_environment_gets_key_or_text(
    name: str, openai_server: Any, exits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    reached = False

    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached = True
        writer.close()

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        settings = configure(openai_server.target, key=KEY, retries=0)
        await embed(await open_openai_models(settings, exits))
    assert not reached


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of this machine that it has signed itself, and the key of that."""
    files = tmp_path / "certificate.pem", tmp_path / "certificate.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.fixture
async def encrypted(certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """The target of a service that has that certificate."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"index": 0, "embedding": [1.0, 2.0]}]})

    app = web.Application()
    app.router.add_post("/v1/embeddings", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"openai://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_a_service_is_believed_if_openssls_variables_name_who_vouches_for_it(
    encrypted: str,
    certificate: tuple[Path, Path],
    exits: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = configure(encrypted, retries=0)
    models = await open_openai_models(settings, exits)
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        await embed(models)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    await embed(await open_openai_models(settings, exits))


async def test_nothing_is_taken_from_the_variables_of_the_sdk(
    openai_server: Any, exits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Mine: from-the-environment\nAuthorization: Bearer from-the-env"
    )
    await embed(await open_openai_models(configure(openai_server.target), exits))
    sent = {name.lower(): value for name, value in openai_server.calls[-1][1].items()}
    assert set(sent) == {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
    assert sent["user-agent"] == f"embercache/{__version__}"


async def test_neither_key_nor_text_is_logged(
    openai_server: Any,
    exits: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = configure(openai_server.target, key=KEY, retries=1)
    models = await open_openai_models(settings, exits)
    with caplog.at_level(logging.DEBUG):
        openai_server.fail(503)
        openai_server.fail(400, message="cannot read: text")
        with pytest.raises(ModelError):
            await embed(models)
    logged = caplog.text + "".join(capfd.readouterr())
    assert KEY not in logged
    assert "text" not in logged
    names = {record.name.partition(".")[0] for record in caplog.records}
    assert names.isdisjoint({"openai", "httpx", "httpx2", "httpcore", "httpcore2"})


# A service that does not answer


async def test_a_silent_service_is_waited_for_no_longer_than_the_timeout(
    openai_server: Any, exits: Any
) -> None:
    settings = configure(openai_server.target, timeout=0.05, retries=0)
    generators = await open_openai_generators(settings, exits)
    openai_server.hold_after = 1
    generation = generate(generators)
    with pytest.raises(ModelUnavailableError, match=r"openai\.timeout, 0\.05 s"):
        await asyncio.wait_for(generation, HANG_GUARD)
    assert [piece.text for piece in generation.pieces] == ["You "]


async def test_a_service_that_is_not_there_is_not_available(
    unused_tcp_port: int, exits: Any
) -> None:
    settings = configure(f"openai+http://127.0.0.1:{unused_tcp_port}/v1", retries=0)
    models = await open_openai_models(settings, exits)
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        await embed(models)
    generation = generate(await open_openai_generators(settings, exits))
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        await asyncio.wait_for(generation, HANG_GUARD)
