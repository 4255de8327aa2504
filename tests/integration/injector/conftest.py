"""The injector as a process, asked over real TLS as the API server asks it."""

from __future__ import annotations

import base64
import io
import json
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest

from bench.certificates import Authority, MountedPair
from bench.injector_process import InjectorProcess
from sidecar.injector.patch import apply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

SETTINGS = """\
image: registry.test/embercache:1
redisSecret: redis
excludedNamespaces: [no-sidecars-here]
"""


class Answer(NamedTuple):
    """What the webhook answered over HTTP; ``response`` is that of the review, if it is one."""

    status: int
    text: str

    @property
    def response(self) -> dict[str, Any]:
        review = json.loads(self.text)
        assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        found: dict[str, Any] = review["response"]
        return found

    @property
    def patch(self) -> list[dict[str, Any]]:
        """The JSON Patch; none if the pod is to stay as it is."""
        if "patch" not in self.response:
            return []
        assert self.response["patchType"] == "JSONPatch"
        operations: list[dict[str, Any]] = json.loads(base64.b64decode(self.response["patch"]))
        return operations


class Caller:
    """Calls one injector over connections that it keeps."""

    def __init__(self, session: aiohttp.ClientSession, process: InjectorProcess) -> None:
        self._session = session
        self._process = process

    async def post(
        self, body: bytes, path: str = "/mutate", content_type: str = "application/json"
    ) -> Answer:
        """Sends bytes."""
        url, headers = self._process.url + path, {"Content-Type": content_type}
        async with self._session.post(url, data=io.BytesIO(body), headers=headers) as response:
            return Answer(response.status, await response.text())

    async def review(self, review: dict[str, Any], path: str = "/mutate") -> Answer:
        """Sends a review, which must be answered."""
        answer = await self.post(json.dumps(review).encode(), path)
        assert answer.status == 200, answer
        assert answer.response["uid"] == review["request"]["uid"]
        return answer

    async def get(self, path: str) -> Answer:
        """Asks for a probe or for the metrics."""
        async with self._session.get(self._process.metrics_url + path) as response:
            return Answer(response.status, await response.text())

    async def metric(self, name: str) -> float:
        """The value of a metric, with its labels as they are written."""
        text = (await self.get("/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issues the certificates of the tests."""
    return Authority()


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> MountedPair:
    """A certificate of this test alone."""
    made = MountedPair(tmp_path / "tls")
    made.put(*authority.issue())
    return made


@pytest.fixture(scope="session")
def injector(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InjectorProcess]:
    """An injector in the namespace embercache-system, for all tests."""
    folder = tmp_path_factory.mktemp("injector")
    pair = MountedPair(folder / "tls")
    pair.put(*authority.issue())
    (folder / "sidecar.yaml").write_text(SETTINGS)
    environment = {"POD_NAMESPACE": "embercache-system"}
    with InjectorProcess(folder, pair, environment, config=folder / "sidecar.yaml") as process:
        yield process


@pytest.fixture
async def calling(authority: Authority) -> AsyncIterator[Callable[[InjectorProcess], Caller]]:
    """Makes callers of injectors."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield lambda process: Caller(session, process)


@pytest.fixture
async def caller(calling: Callable[[InjectorProcess], Caller], injector: InjectorProcess) -> Caller:
    """Calls the injector of all tests."""
    return calling(injector)


@pytest.fixture(scope="session")
def make_pod() -> Callable[..., dict[str, Any]]:
    """Makes pods that ask for a sidecar; annotations are written with ``_`` for ``-``."""

    def make(**annotations: str) -> dict[str, Any]:
        named = {f"embercache.io/{key.replace('_', '-')}": v for key, v in annotations.items()}
        labels = {"embercache.io/inject": "true"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "labels": labels, "annotations": named},
            "spec": {"containers": [{"name": "app", "image": "registry.test/app:1"}]},
        }

    return make


@pytest.fixture(scope="session")
def make_review() -> Callable[..., dict[str, Any]]:
    """Makes reviews of new pods; fields of the request can be given."""

    def make(pod: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
        kinds = {
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
        }
        request = {"uid": "0-1-2", "operation": "CREATE", "namespace": "shop", "object": pod}
        request |= kinds | {"name": "web", "dryRun": False, "userInfo": {"username": "me"}}
        return {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": request | fields,
        }

    return make


@pytest.fixture(scope="session")
def patched() -> Callable[[dict[str, Any], Answer], dict[str, Any]]:
    """A pod as the API server would make it of an answer."""
    return lambda pod, answer: apply(pod, answer.patch)
