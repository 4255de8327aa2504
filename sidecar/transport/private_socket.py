"""A Unix socket that nobody but this process can connect to."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTORS = "/proc/self/fd"
_SECRET_BYTES = 32
# There also where the root of the file system cannot be written to.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is for this user alone


class PrivateSocket:
    """A place for the socket between the front door and the server behind it.

    What connects is believed who calls. So the socket's path, ``path``, is in a folder for this
    user alone, and both are gone as soon as `hide` is called: from then on it has no name but that
    of a descriptor of this process, ``address``.

    Other processes of this user can connect to that by way of ``/proc``. So who connects has to
    show the ``secret`` too.

    Raises:
        OSError: there is no place for one.
    """

    def __init__(self) -> None:
        os.stat(_DESCRIPTORS)
        self.secret = secrets.token_hex(_SECRET_BYTES)
        self._folder = _make_folder()
        self.path = os.path.join(self._folder, "grpc")
        # Holds the number until there is a socket to have it.
        self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.address = f"{_DESCRIPTORS}/{self._descriptor}"

    def hide(self) -> None:
        """Takes the path away, on which something listens by now."""
        held = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        os.dup2(held, self._descriptor, inheritable=False)
        os.close(held)
        shutil.rmtree(self._folder)

    def close(self) -> None:
        """Lets go of everything."""
        os.close(self._descriptor)
        shutil.rmtree(self._folder, ignore_errors=True)


def _make_folder() -> str:
    """A new folder in which a socket can be bound. Raises `OSError`."""
    last: OSError | None = None
    for place in _places():
        try:
            folder = tempfile.mkdtemp(prefix="embercache-", dir=place)
        except OSError as error:
            last = error
            continue
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(os.path.join(folder, "test"))
            os.unlink(os.path.join(folder, "test"))
        except OSError as error:
            last = error
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return folder
    raise last or FileNotFoundError("there is no folder for temporary files")


def _places() -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield tempfile.gettempdir()
    yield _SHARED_MEMORY
