"""The bill of materials of an image: whole, valid, and the same each time."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sidecar import __version__
from sidecar.models.packs import PACKS
from supply.sbom import VARIANTS, main, sbom

ROOT = Path(__file__).parents[3]


# Its schema takes a second to be read.
made = functools.cache(lambda variant: sbom(variant, list(PACKS)))


def components(text: str, kind: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(text)["components"] if each["type"] == kind}


def libraries(text: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Those of a kind of package, by name and version."""
    return {
        (each["name"], each["version"]): each
        for each in json.loads(text)["components"]
        if each.get("purl", "").startswith(f"pkg:{kind}/") and each["type"] == "library"
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_has_every_package_of_the_lock_with_its_hashes(variant: str) -> None:
    lock = (ROOT / "docker" / f"requirements-{variant}.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==([^\s\\]+)", lock, re.MULTILINE))
    found = libraries(made(variant), "pypi")
    assert set(found) == locked
    hashes = [
        digest["content"]
        for each in found.values()
        for digest in each["externalReferences"][0]["hashes"]
    ]
    assert sorted(set(hashes)) == sorted(set(re.findall(r"sha256:([0-9a-f]{64})", lock)))
    for (name, version), each in found.items():
        assert each["purl"] == f"pkg:pypi/{name}@{version}"


def test_it_has_every_crate_of_the_native_front_door_with_its_checksum() -> None:
    lock = tomllib.loads((ROOT / "native" / "Cargo.lock").read_text())["package"]
    locked = {
        (each["name"], each["version"]): each["checksum"]
        for each in lock
        if each["name"] != "embercache-native"
    }
    found = libraries(made("cpu"), "cargo")
    assert {
        name: each["externalReferences"][0]["hashes"][0]["content"] for name, each in found.items()
    } == locked
    assert {"h2", "pyo3", "rustls"} <= {name for name, _ in found}


def test_it_has_our_own_packages_and_the_base_image() -> None:
    text = made("cpu")
    own = components(text, "application")
    assert {name: each["version"] for name, each in own.items()} == {
        "embercache": __version__,
        "embercache-native": __version__,
        "embercache-sidecar": __version__,
    }
    assert f"ARG PYTHON={components(text, 'container')['python']['version']}\n" in (
        (ROOT / "Dockerfile").read_text()
    )


def test_it_has_the_model_packs_with_their_digests() -> None:
    found = components(made("cpu"), "machine-learning-model")
    assert set(found) == set(PACKS)
    for name, pack in PACKS.items():
        assert found[name]["hashes"] == [{"alg": "SHA-256", "content": pack.digests[0]}]
        (source,) = found[name]["externalReferences"]
        assert source["url"] == f"pkg:pypi/{pack.package}@{pack.version}"
        assert source["hashes"][0]["content"] == pack.wheel_sha256


def test_it_is_the_same_each_time_and_the_image_depends_on_all_of_it() -> None:
    assert sbom("cpu", list(PACKS)) == made("cpu")
    content = json.loads(made("cpu"))
    (image,) = (each for each in content["dependencies"] if each["ref"] == "image")
    assert set(image["dependsOn"]) == {each["bom-ref"] for each in content["components"]}


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cpu", "minilm"]) == 0
    assert set(components(capsys.readouterr().out, "machine-learning-model")) == {"minilm"}


def test_an_unknown_pack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cpu", "other"])
    assert "no built-in pack other" in capsys.readouterr().err
