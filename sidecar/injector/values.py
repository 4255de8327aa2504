"""Values that settings and annotations have in common, read from text.

Every function raises ValueError with what is allowed. The message quotes a value only where it
cannot be a secret that went astray.
"""

from __future__ import annotations

import itertools
import re
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUANTITY = re.compile(r"\+?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,2})?", re.ASCII)
_SUFFIXES = {
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("num_kMGTPE", start=-3)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
    "": Decimal(1),
}
_LONGEST_QUANTITY = 40
_SMALLEST_CPU = Decimal("0.001")
_SMALLEST_MEMORY = Decimal(16 * 2**20)
_SECRET = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)(/([A-Za-z0-9._-]{1,253}))?")
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_OBJECT = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253
_PATH = re.compile(r"(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_PACK = r"[A-Za-z0-9._/-]{1,255}(@sha256:[0-9a-f]{64})?"
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")
_LONGEST_ADDRESS = 2048
_LONGEST_IMAGE = 1024
_LONGEST_PATH = 512
_PORTS = range(1024, 65536)

SOCKET_FOLDER = "/run/embercache"
"""Where the sidecar's socket is; nothing else can be mounted there."""
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
"""Where a container has the token of its pod's service account."""


class SecretKey(NamedTuple):
    """One key of a Secret in the pod's namespace."""

    name: str
    key: str


def parse_quantity(text: str) -> Decimal:
    """A quantity as Kubernetes writes it, such as ``250m``, ``1.5``, ``64Mi`` or ``1e3``."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST_QUANTITY else None
    if match is None:
        raise ValueError(f"write a quantity such as 250m, 1.5 or 64Mi, not {quoted(text)}")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _SUFFIXES:
        return number * _SUFFIXES[suffix]
    return number.scaleb(int(suffix[1:]))


def parse_cpu(text: str) -> str:
    """A quantity of CPUs, as it was written; at least ``1m``."""
    if parse_quantity(text) < _SMALLEST_CPU:
        raise ValueError(f"write at least 1m, a thousandth of a CPU, not {quoted(text)}")
    return text


def parse_memory(text: str) -> str:
    """A quantity of bytes, as it was written; at least ``16Mi``."""
    if parse_quantity(text) < _SMALLEST_MEMORY:
        raise ValueError(f"write at least 16Mi, as in 512Mi or 1Gi, not {quoted(text)}")
    return text


def parse_port(text: str) -> int:
    """A port that a process without privileges can listen on."""
    if not (re.fullmatch(r"[0-9]{1,5}", text) and int(text) in _PORTS):
        raise ValueError(f"write a number from 1024 to 65535, not {quoted(text)}")
    return int(text)


def parse_secret_key(text: str) -> SecretKey:
    """``NAME`` or ``NAME/KEY``; the key is ``url`` by default."""
    match = _SECRET.fullmatch(text)
    if match is None:
        raise ValueError(
            "write NAME or NAME/KEY of a Secret in the pod's namespace (not the Redis URL itself)"
        )
    return SecretKey(match[1], match[4] or "url")


def parse_object_name(text: str) -> str:
    """The name of a Secret or a ConfigMap."""
    if len(text) > _LONGEST_NAME or not _OBJECT.fullmatch(text):
        raise ValueError("write a name of lower-case letters, digits, '-' and '.'")
    return text


def parse_mount_path(text: str) -> str:
    """A folder of the sidecar's container, without ``.`` and ``..``."""
    if len(text) > _LONGEST_PATH or not _PATH.fullmatch(text):
        raise ValueError(
            "write the whole path of a folder, such as /etc/embercache/keys, of letters, digits,"
            " '.', '_' and '-'"
        )
    return text


def first_overlap(paths: Sequence[str]) -> tuple[str, str] | None:
    """Two folders of which the second is the first, or is in it; None if there are none."""
    ordered = sorted(f"{path}/" for path in paths)
    for one, other in itertools.pairwise(ordered):
        if other.startswith(one):
            return one.rstrip("/"), other.rstrip("/")
    return None


def parse_packs(text: str) -> str:
    """Names of model packs, or paths of their folders in the image, with commas between."""
    packs = [pack.strip() for pack in text.split(",")]
    if not all(re.fullmatch(_PACK, pack) for pack in packs):
        raise ValueError("write names of model packs with commas between, such as minilm")
    return ",".join(packs)


def parse_cache_namespace(text: str) -> str:
    """A namespace of the cache."""
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError("write 1 to 64 letters, digits, '.', '_' and '-'")
    return text


def parse_target(text: str) -> str:
    """What computes the misses, as ``encoder.target`` takes it; not looked at closely."""
    if not text or len(text) > _LONGEST_ADDRESS or _SPACE.search(text):
        raise ValueError(
            "write local, or an address such as dns:///embercache-encoder.cache.svc:50551"
        )
    return text


def parse_image(text: str) -> str:
    """A reference of an image; only what can be none is refused."""
    if not text or len(text) > _LONGEST_IMAGE or _SPACE.search(text):
        raise ValueError(
            "write the full reference of an image, such as embercache/embercache:0.1.0"
        )
    return text


def quoted(text: str) -> str:
    """A value for a message, cut if it is long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
