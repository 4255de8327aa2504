"""Writes down what an image holds, in CycloneDX: ``python -m supply.sbom cpu minilm > sbom.json``.

These are the packages of the variant's lock with the hashes that pip accepts, the crates of the
native front door's lock, our own three, the base image, and the model packs that are built in, each
with the sha256 of its manifest, which has those of its files. The same source always gives the same
bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from sidecar import __version__
from sidecar.models.packs import PACKS
from supply.locks import read_cargo_lock, read_lock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.models.packs import BuiltInPack
    from supply.locks import Locked

ROOT = Path(__file__).parents[1]
VARIANTS = ("cpu", "cuda")
_VERSION = SchemaVersion.V1_6
_LICENSE = "Apache-2.0"
_OWN = ("embercache-sidecar", "embercache-native", "embercache")


def sbom(variant: str, packs: Iterable[str]) -> str:
    """The bill of materials of an image. Raises `ValueError` if it would not be a valid one."""
    image = _own("embercache", ComponentType.CONTAINER)
    components = [
        _base_image(),
        *(_own(name, ComponentType.APPLICATION) for name in _OWN),
        *(
            _library("pypi", each)
            for each in read_lock(ROOT / "docker" / f"requirements-{variant}.lock")
        ),
        *(_library("cargo", each) for each in read_cargo_lock(ROOT / "native" / "Cargo.lock")),
        *(_model(PACKS[name]) for name in packs),
    ]
    image.bom_ref.value = "image"
    image.properties.add(Property(name="embercache:variant", value=variant))
    bom = Bom(components=components)
    bom.metadata.component = image
    # What the library puts there is another each time.
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.register_dependency(image, components)
    for component in components:
        bom.register_dependency(component)
    made = json.loads(make_outputter(bom, OutputFormat.JSON, _VERSION).output_as_string())
    made.pop("serialNumber", None)
    made["metadata"].pop("timestamp", None)
    text = json.dumps(made, indent=2, sort_keys=True) + "\n"
    if problem := JsonStrictValidator(_VERSION).validate_str(text):
        raise ValueError(f"not valid CycloneDX: {problem}")
    return text


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _own(name: str, kind: ComponentType) -> Component:
    purl = None if kind is ComponentType.CONTAINER else PackageURL("pypi", None, name, __version__)
    return Component(
        type=kind,
        name=name,
        version=__version__,
        purl=purl,
        bom_ref=f"own:{name}",
        licenses=[DisjunctiveLicense(id=_LICENSE)],
    )


def _base_image() -> Component:
    found = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("the Dockerfile does not name its base image")
    purl = PackageURL("docker", None, "python", found[1])
    return Component(
        type=ComponentType.CONTAINER,
        name="python",
        version=found[1],
        purl=purl,
        bom_ref=purl.to_string(),
    )


def _library(kind: str, package: Locked) -> Component:
    purl = PackageURL(kind, None, package.name, package.version)
    # Each hash is that of one file of the package, of which the image has one.
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        hashes=[_sha256(digest) for digest in package.sha256],
    )
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
        external_references=[files],
    )


def _model(pack: BuiltInPack) -> Component:
    source = PackageURL("pypi", None, pack.package, pack.version)
    made_from = ExternalReference(
        type=ExternalReferenceType.SOURCE_DISTRIBUTION,
        url=XsUri(source.to_string()),
        hashes=[_sha256(pack.wheel_sha256)],
    )
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=pack.name,
        version=str(pack.revision),
        description=pack.summary,
        bom_ref=f"model:{pack.name}",
        licenses=[DisjunctiveLicense(id=_LICENSE)],
        external_references=[made_from],
        # That of manifest.json, which lists the sha256 of every file.
        hashes=[_sha256(pack.digests[0])],
    )


def main(arguments: list[str] | None = None) -> int:
    """Prints the bill of materials of an image."""
    parser = argparse.ArgumentParser(description="Writes down what an image holds, in CycloneDX.")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("packs", nargs="*", metavar="PACK", help=f"of {', '.join(PACKS)}")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.packs) - set(PACKS):
        parser.error(f"there is no built-in pack {min(unknown)}")
    print(sbom(chosen.variant, chosen.packs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
