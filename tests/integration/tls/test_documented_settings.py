"""The policies and the settings of TLS that the documentation shows, in force as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from cryptography import x509
from embercache import AsyncClient, PermissionDeniedError

from sidecar.access.live import Access
from sidecar.access.policy import Quota

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

TENSOR = np.ones((1, 2, 3), np.float32)


@pytest.fixture
def folder(tmp_path: Path, make_party: Callable[..., Any]) -> Path:
    """Has the files that the pages have in /etc/embercache."""
    make_party("tls")
    (tmp_path / "tokens").mkdir()
    for name in ("shop", "platform"):
        (tmp_path / "tokens" / name).write_text(f"the-secret-token-of-{name}")
    return tmp_path


@pytest.fixture
def client_files(folder: Path, make_party: Callable[..., Any]) -> Callable[[str], dict[str, Path]]:
    """What a client shows: a certificate of the page, and a token unless it is empty."""
    party = make_party("search")
    uri = x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/search")
    party.pair.put(*party.authority.issue(names=[uri]))
    files = {"ca_file": party.ca, "cert_file": party.files[0], "key_file": party.files[1]}
    return lambda token: files | ({"token_file": folder / "tokens" / token} if token else {})


@pytest.fixture
async def sidecar(
    start: Start, folder: Path, tmp_path: Path, blocks_of: Callable[[str, str], list[str]]
) -> Any:
    """One with the settings and the callers of docs/security.md; its socket is ``socket``."""
    policy, settings = (
        block.replace("/etc/embercache", str(folder))
        for block in blocks_of("docs/security.md", "yaml")
    )
    (tmp_path / "policy.yaml").write_text(policy)
    return await start(
        **yaml.safe_load(settings),
        access={"policy_file": str(tmp_path / "policy.yaml")},
        server={"socket": str(tmp_path / "socket")},
    )


async def test_each_caller_of_the_page_may_do_what_it_says(
    sidecar: Any, client_files: Callable[[str], dict[str, Path]], tmp_path: Path
) -> None:
    address = f"tls://{sidecar.address}"

    async with AsyncClient(address, **client_files("shop")) as shop:
        for namespace in ("", "shop", "shop-staging"):
            await shop.embed(TENSOR, namespace=namespace)
        await shop.invalidate(tags=["release-7"])
        with pytest.raises(PermissionDeniedError):
            await shop.embed(TENSOR, namespace="local")
        with pytest.raises(PermissionDeniedError):
            await shop.flush()

    async with AsyncClient(address, **client_files("")) as search:  # known by its certificate
        assert (await search.embed(TENSOR)).tiers == ["hot"]  # as the shop left it
        with pytest.raises(PermissionDeniedError):
            await search.embed(TENSOR, namespace="shop-staging")
        with pytest.raises(PermissionDeniedError):
            await search.invalidate(tags=["release-7"])

    async with AsyncClient(f"unix:{tmp_path}/socket") as machine:
        assert (await machine.embed(TENSOR)).tiers == ["computed"]
        with pytest.raises(PermissionDeniedError):
            await machine.embed(TENSOR, namespace="shop")

    async with AsyncClient(address, **client_files("platform")) as platform:
        assert (await platform.embed(TENSOR, namespace="local")).tiers == ["hot"]
        assert await platform.flush()


def test_the_quotas_of_the_page_are_in_force_beside_callers_and_without_any(
    folder: Path, blocks_of: Callable[[str, str], list[str]]
) -> None:
    (quotas,) = blocks_of("docs/overload.md", "yaml")
    callers = blocks_of("docs/security.md", "yaml")[0].replace("/etc/embercache", str(folder))
    for policy in (quotas, callers + quotas):
        file = folder / "policy.yaml"
        file.write_text(policy)
        in_force = Access(file).policy
        shop = Quota(items_per_second=2000, computations=256, hot_bytes=64 * 2**20, share=2)
        assert in_force.quota("shop") == shop
        assert in_force.quota("shop-staging") == Quota(items_per_second=500)
        assert bool(in_force.callers) == (policy != quotas)
