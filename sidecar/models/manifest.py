"""The manifest of a pack: ``manifest.json`` in its folder, with the sha256 of every file.

The sha256 of the manifest itself stands for the whole pack, as it does for a container image.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
SHA256 = re.compile(r"[0-9a-f]{64}")

_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Manifest:
    """``files`` maps the path of each file within the folder to its sha256.

    ``digest`` is the sha256 of the manifest itself.
    """

    digest: str
    files: Mapping[str, str]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, None if there is none. Raises `SetupError` if it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    try:
        files = json.loads(data)["files"]
        whole = all(SHA256.fullmatch(digest) for digest in files.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole or len(data) > _MAX_BYTES:
        raise SetupError(
            f"{path}: damaged, or no manifest of a pack; pull the pack again, or move the file away"
        )
    return Manifest(hashlib.sha256(data).hexdigest(), files)


def write_manifest(folder: Path, source: Mapping[str, str | int] | None = None) -> Manifest:
    """Writes down all files in a folder, but for hidden ones; ``source`` says where from.

    The same files always give the same bytes.
    """
    found = ((file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file())
    files = {
        name.as_posix(): sha256(file)
        for name, file in sorted(found)
        if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)
    }
    content = {"files": files} if source is None else {"source": source, "files": files}
    data = (json.dumps(content, indent=2) + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    return Manifest(hashlib.sha256(data).hexdigest(), files)


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
