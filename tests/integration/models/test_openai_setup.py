"""Models of OpenAI-compatible services as settings open them: keys, time-outs, the environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import __version__
from sidecar.config import Settings
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
    settings = configure("openai+http://vllm.example:8000/v1", key=KEY)
    with pytest.raises(SetupError, match=r"^encoder\.target: .*without encryption"):
        await open_openai_models(settings, exits)
    with pytest.raises(SetupError, match=r"^generator\.target: .*without encryption"):
        await open_openai_generators(settings, exits)


# What is sent and what is logged


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
