"""Whether sidecars are native: by what an API server over TLS tells of the kubelets."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.nodes import ApiServer, Nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.certificates import Authority, MountedPair


class ApiServerStub:
    """Lists nodes as the API server does, in pages of two, to who has ``token``.

    ``status`` is what it answers instead; ``started`` whether it is reached at all.
    """

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.token = "first"  # noqa: S105
        self.status = 200
        self.body: Any = None
        self.pages: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return web.Response(status=401)
        if self.status != 200:
            return web.Response(status=self.status)
        if self.body is not None:
            return web.json_response(self.body)
        # Of a table there is no more than one line for each node.
        assert request.headers["Accept"] == "application/json;as=Table;v=v1;g=meta.k8s.io"
        assert request.query["includeObject"] == "None"
        assert int(request.query["limit"]) > 0
        start = request.query.get("continue", "0")
        self.pages.append(start)
        end = int(start) + 2
        columns = [{"name": name} for name in ("Name", "Status", "Version")]
        rows = [{"cells": ["n", "Ready", each]} for each in self.versions[int(start) : end]]
        more = {"continue": str(end)} if end < len(self.versions) else {}
        table = {"kind": "Table", "metadata": more, "columnDefinitions": columns, "rows": rows}
        return web.json_response(table)


@pytest.fixture
def account(tmp_path: Path, authority: Authority) -> Path:
    """The files of a service account."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return tmp_path


@pytest.fixture
async def stub() -> ApiServerStub:
    return ApiServerStub()


@pytest.fixture
async def server(stub: ApiServerStub, pair: MountedPair, account: Path) -> AsyncIterator[ApiServer]:
    app = web.Application()
    app.router.add_get("/api/v1/nodes", stub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield ApiServer(f"https://127.0.0.1:{runner.addresses[0][1]}", account)
    await runner.cleanup()


@pytest.fixture
def metrics() -> InjectorMetrics:
    return InjectorMetrics()


@pytest.fixture
def nodes(server: ApiServer, metrics: InjectorMetrics) -> Nodes:
    return Nodes(server, metrics)


def failures(metrics: InjectorMetrics) -> float | None:
    return metrics.registry.get_sample_value("embercache_injector_node_failures_total")


@pytest.mark.parametrize(
    ("versions", "native"),
    [
        (["v1.29.0"], True),
        (["v1.33.1+k3s1", "v1.30.4-gke.100", "v2.0.0"], True),
        (["v1.28.15-eks-1"], False),
        (["v1.33.0", "v1.33.0", "v1.33.0", "v1.9.11"], False),
        (["v1.33.0", ""], True),
        (["v1.33.0", "no-kubelet"], True),
    ],
)
async def test_sidecars_are_native_if_all_kubelets_know_them(
    versions: list[str], native: bool, stub: ApiServerStub, nodes: Nodes, metrics: InjectorMetrics
) -> None:
    stub.versions = versions
    await nodes.ask()
    assert nodes.are_native == native
    assert failures(metrics) == 0
    told = metrics.registry.get_sample_value("embercache_injector_native_sidecars")
    assert told == native


async def test_all_pages_are_read(stub: ApiServerStub, nodes: Nodes) -> None:
    stub.versions = ["v1.33.0"] * 5
    await nodes.ask()
    assert stub.pages == ["0", "2", "4"]


async def test_after_an_old_kubelet_no_more_pages_are_read(
    stub: ApiServerStub, nodes: Nodes
) -> None:
    stub.versions = ["v1.20.0"] + ["v1.33.0"] * 5
    await nodes.ask()
    assert stub.pages == ["0"]


async def test_native_is_assumed_until_the_api_server_has_answered(
    stub: ApiServerStub, nodes: Nodes, metrics: InjectorMetrics
) -> None:
    stub.status = 403
    await nodes.ask()
    assert nodes.are_native
    assert failures(metrics) == 1


TROUBLES: dict[str, dict[str, Any]] = {
    "no right": {"status": 403},
    "trouble": {"status": 500},
    "another token": {"token": "second"},
    "no table": {"body": {"kind": "NodeList", "items": []}},
    "a table of something else": {
        "body": {"metadata": {}, "columnDefinitions": [{"name": "Name"}], "rows": []}
    },
    "no nodes": {"versions": []},
    "no versions": {"versions": [""]},
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_what_was_known_stays_when_there_is(
    trouble: dict[str, Any], stub: ApiServerStub, nodes: Nodes, metrics: InjectorMetrics
) -> None:
    stub.versions = ["v1.20.0"]
    await nodes.ask()
    vars(stub).update(trouble)
    await nodes.ask()
    assert not nodes.are_native
    assert failures(metrics) == 1


async def test_what_was_known_stays_when_nothing_listens(
    stub: ApiServerStub, account: Path, metrics: InjectorMetrics
) -> None:
    nodes = Nodes(ApiServer("https://127.0.0.1:9", account), metrics)
    await nodes.ask()
    assert nodes.are_native
    assert failures(metrics) == 1


async def test_a_new_token_is_read_when_the_old_one_is_replaced(
    stub: ApiServerStub, nodes: Nodes, account: Path, metrics: InjectorMetrics
) -> None:
    stub.versions = ["v1.33.0"]
    await nodes.ask()
    stub.token, stub.versions = "second", ["v1.20.0"]
    (account / "token").write_text("second")
    await nodes.ask()
    assert not nodes.are_native
    assert failures(metrics) == 0


async def test_a_server_of_another_authority_gets_no_token(
    stub: ApiServerStub, nodes: Nodes, account: Path, metrics: InjectorMetrics, other_ca: bytes
) -> None:
    (account / "ca.crt").write_bytes(other_ca)
    stub.versions = ["v1.20.0"]
    await nodes.ask()
    assert stub.pages == []
    assert failures(metrics) == 1


@pytest.fixture
def other_ca(authority: Authority) -> bytes:
    return type(authority)().pem


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_a_pod_the_api_server_is_where_kubernetes_says(host: str, url: str) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    found = ApiServer.of_pod(environment)
    assert found is not None
    assert found.url == url


def test_outside_of_a_pod_there_is_none() -> None:
    assert ApiServer.of_pod({}) is None
