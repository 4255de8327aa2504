"""The files of a pack, which may come from anywhere: each is checked before it is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from sidecar.models.errors import SetupError
from sidecar.models.manifest import MANIFEST, read_manifest, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_CONFIG_BYTES = 16 * 2**20
MAX_TOKENIZER_BYTES = 128 * 2**20
"""Those of published models have up to 34 MB."""
_NO_LIMIT = 2**63


class PackFolder:
    """A folder of which only files are used that lie in it and are not too large.

    If there is a manifest, they must also be listed there, and be what it says. Digests are
    computed once. Everything raises `SetupError`, which names the file and says what to do.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SetupError(f"{path}: no such folder")
        self.path = path
        manifest = read_manifest(path)
        self._listed = None if manifest is None else manifest.files
        self._digests: dict[Path, str] = {}
        real = path.resolve()
        # In the cache of the model hub, a folder has links to the files, which lie beside it.
        is_in_hub = real.parent.name == "snapshots"
        self._places = (real, real.parent.parent / "blobs") if is_in_hub else (real,)

    def find(self, name: str, most: int) -> Path | None:
        """Where a file of at most ``most`` bytes is; None if it is not there."""
        path = self.path / name
        with _naming(path):
            if not path.is_file():
                if self._listed is not None and PurePosixPath(name).as_posix() in self._listed:
                    raise SetupError(f"{path}: missing; pull the pack again")
                return None
            size = path.stat().st_size
            is_inside = any(path.resolve().is_relative_to(place) for place in self._places)
        if not is_inside or ".." in PurePosixPath(name).parts:
            raise SetupError(f"{path}: lies outside of the pack's folder; copy it there")
        if size > most:
            raise SetupError(f"{path}: has {size} bytes, more than the {most} that are allowed")
        return path

    def digest(self, path: Path) -> bytes:
        """The sha256 of a file that was found."""
        if path not in self._digests:
            with _naming(path):
                found = sha256(path)
            self._compare(path, found)
        return bytes.fromhex(self._digests[path])

    def read(self, path: Path) -> bytes:
        """The content of a file that was found."""
        with _naming(path):
            data = path.read_bytes()
        self._compare(path, hashlib.sha256(data).hexdigest())
        return data

    def json(self, name: str, kind: type) -> Any:
        """What a file of settings holds, None if it is not there."""
        path = self.find(name, MAX_CONFIG_BYTES)
        if path is None:
            return None
        try:
            content = json.loads(self.read(path))
        except (ValueError, RecursionError) as error:
            raise SetupError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(content, kind):
            raise SetupError(f"{path}: a JSON {kind.__name__} is expected")
        return content

    def verify(self) -> None:
        """Compares every file that the manifest lists."""
        if self._listed is None:
            raise SetupError(f"{self.path / MANIFEST}: missing; `embercache models pin` writes one")
        for name in self._listed:
            path = self.find(name, _NO_LIMIT)
            if path is not None:
                self.digest(path)

    def _compare(self, path: Path, found: str) -> None:
        """Takes note of a digest; raises `SetupError` if it is another one than is listed."""
        if self._listed is not None:
            listed = self._listed.get(path.relative_to(self.path).as_posix())
            if listed != found:
                problem = "is not listed in" if listed is None else "differs from what is listed in"
                raise SetupError(
                    f"{path}: {problem} {MANIFEST}; pull the pack again, or, if the change is"
                    " yours, run `embercache models pin` on a copy of the folder"
                )
        self._digests[path] = found


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
