"""An environment of its own for each peer, made once from its requirements and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")
_INSTALL_SECONDS = 1800


class NotInstalledError(Exception):
    """A peer could not be installed here; the message is the last that pip said."""


def is_installed(peer: str) -> bool:
    """Whether a peer's environment is there, with the requirements as they are now."""
    ready = _ready(peer)
    return ready.exists() and ready.read_text("utf-8") == _digest(peer)


def python_of(peer: str) -> str:
    """The Python of a peer's environment, which is made if it is not there.

    Takes minutes the first time. Packages are not resolved again: the requirements name all that
    is needed. Raises `NotInstalledError`.
    """
    folder = _folder(peer)
    python = folder / "bin" / "python"
    if is_installed(peer):
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {peer} into {folder}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    _run([*install, "--disable-pip-version-check", "-r", str(_requirements(peer))])
    _ready(peer).write_text(_digest(peer), "utf-8")
    return str(python)


def _requirements(peer: str) -> Path:
    return REQUIREMENTS / f"{peer}.txt"


def _digest(peer: str) -> str:
    return hashlib.sha256(_requirements(peer).read_bytes()).hexdigest()


def _folder(peer: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "embercache" / "peers" / peer


def _ready(peer: str) -> Path:
    return _folder(peer) / ".ready"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"not installed in {_INSTALL_SECONDS:,} seconds") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise NotInstalledError(said[-1])
