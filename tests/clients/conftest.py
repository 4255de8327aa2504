"""One real sidecar for the clients of every language, and what the Python client gets of it.

The clients are built before: ``make test-clients`` builds them and runs these tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from embercache import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidecar.dev_redis import DevRedis

CLIENTS = Path(__file__).parents[2] / "clients"
HANG_GUARD = 100.0

TEXTS = (
    "",
    " ",
    ".",
    "An ember is a piece of glowing coal.",
    "Zażółć gęślą jaźń, Ünïcödé, ﬁ and e\u0301 are not é",
    "日本語の文章と한국어 문장, русский текст, نص عربي, ข้อความไทย",
    "👩🏽‍🚀 flew to 🇺🇳 with 🧑‍🤝‍🧑 and 🜂 beyond the first plane 𓀀",
    "a\ttab, a\nline, a\r\nline of Windows, \"quotes\", 'more', a \\backslash and $HOME `id` %s",
    "long " * 3000 + "and its end, which the model does not read",
    "An ember is a piece of glowing coal. ",  # not the same as without the space
)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar with the models minilm and smollm2-135m, and where it listens."""

    tcp: str
    unix: str


@dataclass(frozen=True)
class Line:
    """What a program ``embed`` prints of one text.

    ``tier`` in small letters, as Python names it; SHA-256 of the bytes of the vector as it came,
    in hexadecimal; its first three elements.
    """

    tier: str
    digest: str
    start: tuple[float, ...]


@pytest.fixture(scope="session")
def start_sidecar(
    tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path
) -> Callable[..., contextlib.AbstractContextManager[Callable[[], Sidecar]]]:
    """A sidecar in a process of its own, on TCP and on a Unix socket, with more settings.

    What its context gives waits until it serves, so that several can start together.
    """

    @contextlib.contextmanager
    def start(*arguments: str | Path, **variables: str) -> Iterator[Callable[[], Sidecar]]:
        folder = tmp_path_factory.mktemp("sidecar")
        socket, log = folder / "sidecar.sock", folder / "log"
        command = [sys.executable, "-m", "sidecar", "serve", "--log-format", "json"]
        command += ["--server-address", "127.0.0.1:0", "--server-socket", str(socket)]
        command += ["--server-drain-delay", "0", "--model-packs", str(minilm_folder)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        command += map(str, arguments)
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment | variables, stderr=output)
        try:
            yield lambda: Sidecar(tcp=_tcp_address(process, log), unix=f"unix:{socket}")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANG_GUARD) == 0

    return start


@pytest.fixture(scope="session")
def sidecar(
    start_sidecar: Callable[..., Any], smollm2_folder: Path, shared_redis: DevRedis
) -> Iterator[Sidecar]:
    """One that whoever connects may use, with a real Redis."""
    redis = {"EMBERCACHE_REDIS_URL": shared_redis.url}
    with start_sidecar("--generator-packs", smollm2_folder, **redis) as serving:
        yield serving()


def _tcp_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits until the sidecar says where it serves."""
    give_up = time.monotonic() + HANG_GUARD
    while time.monotonic() < give_up and process.poll() is None:
        for line in log.read_text("utf-8").splitlines():
            if line.endswith("}") and json.loads(line)["event"] == "serving":
                addresses = json.loads(line)["addresses"]
                return next(each for each in addresses if not each.startswith("unix:"))
        time.sleep(0.01)
    raise AssertionError(f"the sidecar does not serve: {log.read_text('utf-8')}")


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, sidecar: Sidecar) -> str:
    """Where the sidecar listens, both ways in turn."""
    return getattr(sidecar, request.param)


@pytest.fixture(scope="session")
def python_client(sidecar: Sidecar) -> Iterator[Client]:
    """What the other clients are compared with."""
    with Client(sidecar.tcp, timeout=HANG_GUARD) as client:
        yield client


@pytest.fixture(scope="session")
def built() -> Callable[[str], Path]:
    """Finds what was built, by its path under clients; the test fails if it is not there."""

    def find(name: str) -> Path:
        path = CLIENTS / name
        if not path.exists():
            pytest.fail(f"clients/{name} is not there: run make test-clients, which builds it")
        return path

    return find


@pytest.fixture(scope="session")
def example(built: Callable[[str], Path]) -> Callable[[str, str], list[str | Path]]:
    """The command that runs an example in a language."""

    def command(language: str, name: str) -> list[str | Path]:
        match language:
            case "go":
                return [built(f"go/build/{name}")]
            case "java":
                jar = built("java/target/embercache-client-0.1.0.jar")
                # Java takes its arguments for text of the locale, which may know of ASCII only.
                java = ["env", "LC_ALL=C.UTF-8", "java", "-XX:TieredStopAtLevel=1"]
                source = built(f"java/examples/{name.capitalize()}.java")  # compiled as it starts
                return [*java, "-cp", f"{jar}:{jar.parent}/lib/*", source]
            case "node":
                built("node/node_modules")
                return ["node", built(f"node/dist/examples/{name}.js")]
            case _:
                return [built(f"{language}/target/debug/examples/{name}")]

    return command


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Runs a command of a client with that ``EMBERCACHE_ADDRESS``, none if it is empty.

    ``expected`` is the path of `expected_vectors`, for tests that read it. ``files`` are those of
    tokens and certificates, by the names of their variables behind ``EMBERCACHE_``.

    Returns its standard output; the test fails with all its output if it does not end with
    ``code``, or gives ``stderr`` back if that is another than 0.
    """

    def run_command(
        *command: str | Path,
        address: str = "",
        folder: str | Path = ".",
        expected: Path | None = None,
        code: int = 0,
        **files: Path,
    ) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        if address:
            environment["EMBERCACHE_ADDRESS"] = address
        if expected:
            environment["EMBERCACHE_TEST_EXPECTED"] = str(expected)
        environment |= {f"EMBERCACHE_{name}": str(file) for name, file in files.items()}
        ended = subprocess.run(
            [str(part) for part in command],
            cwd=CLIENTS / folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=HANG_GUARD,
            check=False,
        )
        assert ended.returncode == code, f"{ended.stdout}\n{ended.stderr}"
        return ended.stderr if code else ended.stdout

    return run_command


@pytest.fixture
def embed(run: Callable[..., str]) -> Callable[..., list[Line]]:
    """Runs a program ``embed`` for some texts and reads what it prints."""

    def run_embed(command: Sequence[str | Path], texts: Sequence[str], address: str) -> list[Line]:
        lines = run(*command, *texts, address=address).splitlines()
        assert len(lines) == len(texts)
        fields = [line.split() for line in lines]
        return [Line(tier, digest, tuple(map(float, start))) for tier, digest, *start in fields]

    return run_embed


@pytest.fixture
def compare_with_python(
    embed: Callable[..., list[Line]],
    address: str,
    python_client: Client,
    shared_redis: DevRedis,
) -> Callable[[Sequence[str | Path]], None]:
    """Runs a program ``embed`` with an empty cache and with every tier full.

    What it gets must be, bit for bit, what the Python client gets.
    """

    def entries() -> int:
        with redis.Redis.from_url(shared_redis.url) as view:
            return len(view.keys("embercache:embed:*"))

    def compare(command: Sequence[str | Path]) -> None:
        python_client.invalidate(whole_namespace=True)
        before = entries()
        cold = embed(command, TEXTS, address)
        hot = embed(command, TEXTS, address)
        _wait_until(lambda: entries() == before + len(TEXTS))
        python_client.flush(["hot"])
        warm = embed(command, TEXTS, address)
        expected = python_client.embed(TEXTS)
        python_client.invalidate(whole_namespace=True)
        by_python = python_client.embed(TEXTS)
        after_python = embed(command, TEXTS, address)

        for tier, lines in {"computed": cold, "hot": hot, "warm": warm}.items():
            assert [line.tier for line in lines] == [tier] * len(TEXTS)
            assert [line.digest for line in lines] == _digests(expected.raw)
        assert [line.tier for line in after_python] == ["hot"] * len(TEXTS)
        assert [line.digest for line in after_python] == _digests(by_python.raw)
        starts = np.array([line.start for line in cold])
        np.testing.assert_allclose(starts, expected.vectors[:, :3], atol=1e-6, rtol=0)

    return compare


@pytest.fixture
def expected_vectors(python_client: Client, tmp_path: Path) -> Path:
    """What the Python client decodes of some texts, which are cached now, in every encoding.

    The tests of a client find the path of this file in ``EMBERCACHE_TEST_EXPECTED``. A line of it
    is ``ENCODING SHA256 TEXT``: the encoding as the contract names it, the digest of the decoded
    vector as float32 in little-endian order, in hexadecimal, and up to the end of the line the
    text, which may be empty or a space.
    """
    texts = [text for text in TEXTS if len(text.splitlines()) < 2]
    python_client.embed(texts)  # so that all that follow are of one run of the model
    path = tmp_path / "expected"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for encoding in ("float32", "float16", "int8"):
            vectors = python_client.embed(texts, encoding=encoding).vectors
            for text, digest in zip(texts, _digests(vectors.astype("<f4")), strict=True):
                file.write(f"ENCODING_{encoding.upper()} {digest} {text}\n")
    return path


@pytest.fixture
def compare_search_with_python(
    run: Callable[..., str], sidecar: Sidecar, python_client: Client
) -> Callable[[Sequence[str | Path]], None]:
    """Runs a program ``search``, which must find in its documents what the Python client finds."""

    def compare(command: Sequence[str | Path]) -> None:
        python_client.invalidate(whole_namespace=True)
        question = "What is stored so that it is not worked out twice?"
        said = run(*command, question, address=sidecar.unix)
        found = python_client.search(question, collection="examples", top_k=2).results
        assert found[0].id == "cache"
        lines = [f"{hit.score:.4f} {hit.id}: {hit.content}" for hit in found]
        assert said.splitlines() == lines

    return compare


@pytest.fixture
def compare_generation_with_python(
    run: Callable[..., str], sidecar: Sidecar, python_client: Client
) -> Callable[[Sequence[str | Path]], None]:
    """Runs a program ``generate`` twice, which must print what the Python client gets."""

    def compare(command: Sequence[str | Path]) -> None:
        python_client.invalidate(whole_namespace=True)
        prompt = "The capital of France is"
        cold = run(*command, prompt, address=sidecar.unix)
        hot = run(*command, prompt, address=sidecar.unix)
        text = python_client.generate(prompt, max_tokens=16).text
        assert cold == f"{text}\nTIER_COMPUTED FINISH_REASON_LENGTH\n"
        assert hot == f"{text}\nTIER_HOT FINISH_REASON_LENGTH\n"

    return compare


def _digests(vectors: np.ndarray) -> list[str]:
    return [hashlib.sha256(vector.tobytes()).hexdigest() for vector in vectors]


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + HANG_GUARD
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
