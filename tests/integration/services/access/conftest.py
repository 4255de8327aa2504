"""Sidecars with a policy, and clients who show who they are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from embercache.v1 import (
    cache_pb2,
    cache_pb2_grpc,
    embed_pb2,
    embed_pb2_grpc,
    generate_pb2,
    generate_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

import sidecar.access.live
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

FILES = (embed_pb2, search_pb2, generate_pb2, cache_pb2)


class Policy:
    """A policy file: callers by name, with the namespaces and rights that each has.

    Each has one token, which is made of his name, unless he is known otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "policy.yaml"
        self._folder = folder
        self._callers: dict[str, dict[str, Any]] = {}

    @property
    def section(self) -> dict[str, Any]:
        """The section of settings."""
        return {"policy_file": str(self.file)}

    def allow(self, name: str, *namespaces: str, rights: str = "read write", **known: Any) -> None:
        """Adds a caller, or changes what he may do."""
        entry = {"name": name, "namespaces": list(namespaces), "rights": rights.split()} | known
        if not known:
            self.tokens(name).write_text(self.token(name))
            entry["token_file"] = str(self.tokens(name))
        self._callers[name] = entry
        self._write()

    def forbid(self, name: str) -> None:
        """Takes a caller out."""
        del self._callers[name]
        self._write()

    def token(self, name: str) -> str:
        """His token."""
        return f"the-secret-token-of-{name}"

    def tokens(self, name: str) -> Path:
        """The file of his tokens."""
        return self._folder / f"tokens-of-{name}"

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump({"callers": list(self._callers.values())}))
        new.replace(self.file)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Two tenants and an administrator; what changes is seen soon."""
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.005))
    written = Policy(tmp_path)
    written.allow("shop", "shop")
    written.allow("bank", "bank")
    written.allow("admin", "*", rights="read write administer")
    return written


class _ShowingChannel:
    """A channel whose calls show a token."""

    def __init__(self, channel: grpc.aio.Channel, authorization: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", authorization),)

    def __getattr__(self, kind: str) -> Any:
        def of(path: str, *arguments: Any, **options: Any) -> Any:
            method = getattr(self._channel, kind)(path, *arguments, **options)
            return partial(method, metadata=self._metadata)

        return of


@pytest.fixture
def show() -> Callable[..., Any]:
    """Has a client show an authorization from now on."""

    def show(client: Any, authorization: str) -> Any:
        channel: Any = _ShowingChannel(client.channel, authorization)
        client.embeds = embed_pb2_grpc.EmbedServiceStub(channel)
        client.caches = cache_pb2_grpc.CacheServiceStub(channel)
        client.searches = search_pb2_grpc.SearchServiceStub(channel)
        client.generators = generate_pb2_grpc.GenerateServiceStub(channel)
        client.showing = channel
        return client

    return show


@pytest.fixture
async def known_as(client_of: Any, show: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    """Makes clients of a sidecar that show the token of a caller of the policy."""
    return lambda at, name: show(client_of(at.address), f"Bearer {policy.token(name)}")


@pytest.fixture
def every_method() -> list[Any]:
    """The descriptors of all methods of the contract."""
    return [
        method
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


@pytest.fixture
def end_of() -> Callable[..., Awaitable[tuple[str, str]]]:
    """How a call of any method with these bytes ends, and what it says."""

    async def end_of(channel: Any, method: Any, raw: bytes = b"") -> tuple[str, str]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = "_".join(
            "stream" if streams else "unary"
            for streams in (method.client_streaming, method.server_streaming)
        )
        call = getattr(channel, kind)(path)
        request = iter([raw]) if method.client_streaming else raw
        try:
            if method.server_streaming:
                async for _ in call(request, timeout=30):
                    pass
            else:
                await call(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""

    return end_of
