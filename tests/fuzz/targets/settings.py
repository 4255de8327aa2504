"""Settings from a YAML file and from the environment: one line ``---env`` parts the two."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sidecar.config_sources import ConfigError, all_settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (ConfigError,)
MAX_BYTES = 2048
TOKENS = (
    *(setting.path for setting in all_settings()),
    *["---env", "{", "}", "[", "]", ":", "-", "&a", "*a", "<<:", "!!", "|", "'", "never", "64MiB"],
)
_FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "settings.yaml"
_PARTS = b"---env\n"


def seeds() -> Iterator[bytes]:
    sections: dict[str, dict[str, str]] = {}
    for setting in all_settings():
        sections.setdefault(setting.section, {})[setting.name] = "1"
    yield from (yaml.safe_dump({name: fields}).encode() for name, fields in sections.items())
    yield b"model:\n  packs: [minilm, /models/own]\nhot: {max_bytes: 64MiB}\n"
    yield b"cache: &a {prefix: x}\nhot: *a\n" + _PARTS + b"redis.url=redis://:secret@host:6379/0"
    yield _PARTS + b"server.tcp_address=0.0.0.0:50051\nserver.insecure=true\ncache.ttl=never"


def run(data: bytes) -> None:
    file, _, environment = data.partition(_PARTS)
    _FILE.write_bytes(file)
    lines = environment.decode(errors="surrogateescape").splitlines()
    named = (line.partition("=") for line in lines)
    values = {f"EMBERCACHE_{name.replace('.', '_').upper()}": value for name, _, value in named}
    load_settings(_FILE, values, {})
