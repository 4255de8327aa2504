"""The image does its work as nobody in particular, on a file system that cannot be written to."""

from __future__ import annotations

import base64
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from embercache import Client

import sidecar
from bench.certificates import Authority
from sidecar.models.local import LocalEmbedder
from sidecar.models.packs import default_folder

if TYPE_CHECKING:
    Container = Any
    Image = Any

pytestmark = pytest.mark.timeout(1800)  # building takes some minutes on an idle machine

TEXT = "how warm is an ember?"


async def test_it_serves_as_an_unprivileged_user_without_anywhere_to_write(
    container: Container, minilm_folder: Path
) -> None:
    container.start(server_drain_delay="1s")
    assert container.health().returncode == 1
    container.wait_for("serving")
    assert container.health().stdout == "SERVING\n"
    with Client(container.address) as client:
        result = client.embed([TEXT])
        assert client.embed([TEXT]).tiers == ["hot"]
    model = LocalEmbedder.load(minilm_folder, "minilm", provider="cpu", threads=1)
    (expected,) = model.submit([TEXT])
    np.testing.assert_allclose(result.vectors[0], (await expected).vector, atol=1e-6)
    assert result.model_version == model.info.version
    await model.close()
    container.signal(signal.SIGTERM)
    container.wait_for("draining")
    assert "NOT_SERVING" in container.health().stdout
    assert container.wait() == 0
    assert container.events[-1]["event"] == "stopped"


def test_models_can_be_mounted(
    container: Container, minilm_folder: Path, smollm2_folder: Path
) -> None:
    assert minilm_folder.parent == smollm2_folder.parent == default_folder()
    container.start(mounts={default_folder(): "/models"}, generator_packs=smollm2_folder.name)
    container.wait_for("serving")
    with Client(container.address) as client:
        assert client.generate("An ember is", max_tokens=3).text


def test_it_encrypts_on_the_wire_and_on_disk_with_secrets_that_only_others_may_write(
    container: Container, tmp_path: Path
) -> None:
    secrets, disk = tmp_path / "secrets", tmp_path / "disk"
    secrets.mkdir(mode=0o755)
    disk.mkdir()
    shutil.chown(disk, 65532, 65532)
    certificate, key = Authority().issue()
    contents = {
        "tls.crt": certificate,
        "tls.key": key,
        "salt": b"a salt of many letters",
        "keys": b"k1:" + base64.b64encode(bytes(32)),
    }
    for name, content in contents.items():
        (secrets / name).write_bytes(content)
        (secrets / name).chmod(0o444)
    place = "/secrets"
    container.start(
        mounts={secrets: place, disk: "/cache"},
        tls_cert_file=f"{place}/tls.crt",
        tls_key_file=f"{place}/tls.key",
        cache_salt_file=f"{place}/salt",
        encryption_keys_file=f"{place}/keys",
        server_metrics_address="0.0.0.0:0",
        disk_folder="/cache",
        server_drain_delay="0s",
    )
    container.wait_for("serving")
    assert container.health().stdout == "SERVING\n"
    with Client(container.address) as client:
        assert client.embed([TEXT]).tiers == ["computed"]
    container.signal(signal.SIGTERM)
    assert container.wait() == 0
    assert "certificate in use" in [event["event"] for event in container.events]
    # What it kept names the key with which it is sealed.
    kept = b"".join(path.read_bytes() for path in disk.rglob("*") if path.is_file())
    assert b"k1" in kept


def test_a_signal_ends_it_while_it_starts_though_it_is_the_first_process(
    container: Container,
) -> None:
    container.start()
    container.wait_until_it_handles(signal.SIGTERM)
    container.signal(signal.SIGTERM)
    assert container.wait() == 128 + signal.SIGTERM
    assert "serving" not in [event["event"] for event in container.events]


def test_a_second_signal_ends_it_at_once_though_it_is_the_first_process(
    container: Container,
) -> None:
    container.start(server_drain_delay="600s")
    container.wait_for("serving")
    container.signal(signal.SIGTERM)
    container.wait_for("draining")
    container.signal(signal.SIGTERM)
    assert container.wait() == 128 + signal.SIGTERM


def test_it_tells_its_version(image: Image) -> None:
    assert image.stage.labels["org.opencontainers.image.version"] == sidecar.__version__
    assert image.stage.labels["org.opencontainers.image.revision"] == "f00d"
    assert sidecar.__version__ in image.run("--version").stdout


def test_it_runs_as_a_user_without_a_name_or_rights(image: Image) -> None:
    ids = "uid=65532 gid=65532 groups=65532"
    assert image.run_command(["id"]).stdout == f"{ids}\n"
    assert image.stage.stop_signal == "SIGTERM"


def test_its_models_are_whole(image: Image) -> None:
    assert image.run("models", "verify").stdout == "/models/minilm: whole\n"


def test_the_layer_of_the_models_is_the_same_whenever_it_is_made(image: Image) -> None:
    (layer,) = (each / "models" for each in image.stage.layers[1:] if (each / "models").is_dir())
    paths = [layer, *layer.rglob("*")]
    assert layer / "minilm" / "manifest.json" in paths
    assert {path.stat().st_mtime for path in paths} == {0}
    assert [path.name for path in layer.iterdir()] == ["minilm"]


def test_it_says_that_it_has_no_redis_of_its_own(image: Image) -> None:
    result = image.run("serve", "--dev")
    assert result.returncode == 1
    assert "the container image has none: set EMBERCACHE_REDIS_URL instead" in result.stdout


def test_our_packages_are_installed_and_not_linked_to(image: Image) -> None:
    code = "import sidecar, embercache; print(sidecar.__file__, embercache.__file__)"
    for path in image.run_command(["python", "-c", code]).stdout.split():
        assert path.startswith("/opt/embercache/lib/python3.")


def test_it_serves_by_way_of_the_native_front_door(container: Container) -> None:
    container.start()
    container.wait_for("serving")
    (told,) = (each for each in container.events if each["event"] == "what listens for gRPC")
    assert told["transport"] == "native"
    with Client(container.address) as client:
        for _ in range(3):
            assert client.embed([TEXT]).vectors.shape == (1, 384)


def test_every_module_comes_with_its_bytecode(image: Image) -> None:
    # Nothing could be written where it runs: each start would compile them all again.
    sources = {
        source.relative_to(layer)
        for layer in image.stage.layers[1:]
        for source in layer.rglob("site-packages/**/*.py")
    }
    compiled = {
        (bytecode.parents[1] / f"{bytecode.name.partition('.')[0]}.py").relative_to(layer)
        for layer in image.stage.layers[1:]
        for bytecode in layer.rglob("site-packages/**/*.pyc")
    }
    assert Path("opt/embercache/lib") in [path for one in sources for path in one.parents]
    assert sources == compiled


def test_nothing_of_the_tests_and_of_building_is_in_it(image: Image) -> None:
    paths = [str(path) for layer in image.stage.layers[1:] for path in layer.rglob("*")]
    assert [path for path in paths if path.endswith("site-packages/sidecar")]
    for name in (
        "cargo",
        "hatchling",
        "pytest",
        "mypy",
        "huggingface_hub",
        "numpy/core/tests",
        "/build",
    ):
        assert not [path for path in paths if path.endswith(name)]
