"""Whether every node runs native sidecars, as the API server tells of its kubelets' versions.

It is asked in the background; a review only ever reads the last answer. Needs the right to list
nodes. The idea to go by the kubelets is Istio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from sidecar.injector.metrics import InjectorMetrics

FIRST_NATIVE = (1, 29)
"""The first version of Kubernetes in which native sidecars are on without being asked for."""

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REFRESH_SECONDS = 300.0
_RETRY_SECONDS = 30.0
_PAGE = 500
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
# A table has a line of text for a node, not the kilobytes of the whole object.
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_VERSION = re.compile(r"v?(\d+)\.(\d+)")

_log = structlog.get_logger()


class NodesError(Exception):
    """The API server could not be asked for the nodes. The message says why."""


@dataclass(frozen=True)
class ApiServer:
    """The API server of the cluster that this pod runs in, and the account to ask it with.

    ``account`` holds the files ``token`` and ``ca.crt``, which Kubernetes replaces now and then, so
    they are read for each use.
    """

    url: str
    account: Path = ACCOUNT_FOLDER

    @classmethod
    def of_pod(cls, environment: Mapping[str, str]) -> ApiServer | None:
        """That which Kubernetes names in a pod's environment; None outside of a pod."""
        host = environment.get("KUBERNETES_SERVICE_HOST")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            return None
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}")

    async def kubelet_versions(self) -> AsyncGenerator[str]:
        """The versions of all kubelets, a page of nodes at a time. Raises `NodesError`."""
        try:
            token = (self.account / "token").read_text("ascii").strip()
            context = ssl.create_default_context(cafile=self.account / "ca.crt")
            headers = {"Authorization": f"Bearer {token}", "Accept": _TABLE}
            connector = aiohttp.TCPConnector(ssl=context)
            async with aiohttp.ClientSession(
                self.url, connector=connector, headers=headers, timeout=_TIMEOUT
            ) as session:
                page: str | None = ""
                while page is not None:
                    table = await self._page(session, page)
                    for version in _versions(table):
                        yield version
                    page = table["metadata"].get("continue") or None
        except (OSError, ValueError, LookupError, TypeError, aiohttp.ClientError) as error:
            raise NodesError(f"{type(error).__name__}: {error}") from error

    async def _page(self, session: aiohttp.ClientSession, start: str) -> Any:
        query = {"limit": str(_PAGE), "includeObject": "None"}
        if start:
            query["continue"] = start
        async with session.get("/api/v1/nodes", params=query, allow_redirects=False) as response:
            if response.status == 200:
                return await response.json()
            hint = ": the account needs the right to list nodes" if response.status == 403 else ""
            raise NodesError(f"the API server answered {response.status}{hint}")


class Nodes:
    """What is known of the nodes.

    ``are_native`` tells whether all of them run native sidecars. Until the API server has answered
    that is taken for granted, as every version of Kubernetes that is still maintained does.
    """

    def __init__(self, server: ApiServer, metrics: InjectorMetrics) -> None:
        self._server = server
        self._metrics = metrics
        self._answered = False
        self._pause = 0.0
        self._set(native=True)

    async def ask(self) -> None:
        """Asks the API server; if it does not answer, what was known stays."""
        try:
            native = await self._all_native()
        except NodesError as error:
            self._metrics.node_failures.inc()
            if self._answered:
                _log.warning("nodes not known anew", reason=str(error), native=self.are_native)
            else:
                _log.warning("nodes not known: native sidecars assumed", reason=str(error))
            self._pause = _RETRY_SECONDS
            return
        if not self._answered or native != self.are_native:
            _log.info("nodes known", native=native)
        self._answered = True
        self._set(native=native)
        self._pause = _REFRESH_SECONDS

    async def follow(self) -> None:
        """Asks again every few minutes, sooner after a failure, until cancelled."""
        while True:
            await asyncio.sleep(self._pause)
            await self.ask()

    async def _all_native(self) -> bool:
        known = False
        async with contextlib.aclosing(self._server.kubelet_versions()) as versions:
            async for version in versions:
                found = _VERSION.match(version)
                if found is None:
                    continue  # A node that has just registered, or no real kubelet.
                if (int(found[1]), int(found[2])) < FIRST_NATIVE:
                    return False
                known = True
        if not known:
            raise NodesError("no node tells the version of its kubelet")
        return True

    def _set(self, *, native: bool) -> None:
        self.are_native = native
        self._metrics.native_sidecars.set(native)


def _versions(table: Any) -> list[str]:
    """The column Version of a table of nodes. Raises `LookupError` or `TypeError` for others."""
    names = [column["name"] for column in table["columnDefinitions"]]
    if "Version" not in names:
        raise LookupError("the table of nodes has no column Version")
    place = names.index("Version")
    return [str(row["cells"][place]) for row in table["rows"] or ()]
