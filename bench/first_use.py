"""How long a new user takes, from a fresh clone to the first call of a program of his own.

    python -m bench.first_use

Follows the words of the README in a clone of this repository, with empty caches of packages and
models: `make run`; a sidecar, and the README's Python; a program in Go, as clients/go/README.md
has it; and `make test`. Commands and programs are read from these pages, so that what is timed is
what they say. Cargo's and Go's downloads are kept if they were made before. Needs Go.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
_MAIN = """package main

import (
	"context"
	"fmt"
	"log"
	"time"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

func main() {{
{body}
	fmt.Println(len(vectors), "vectors of", len(vectors[0]))
}}
"""


@dataclass(frozen=True)
class User:
    """A new user: a clone, and an environment in which nothing was ever installed."""

    clone: Path
    environment: Mapping[str, str]

    def run(self, command: str, folder: Path | None = None) -> None:
        """Runs a command of the pages. Raises `subprocess.CalledProcessError`."""
        subprocess.run(
            ["bash", "-euc", command],
            cwd=folder or self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--without-tests", action="store_true", help="leave make test out")
    add_json_option(parser)
    options = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        user = _new_user(Path(name))
        for step, action in (
            ("make run, to the first hits from memory", _make_run),
            ("the first call of a program in Python", _python),
            ("the first call of a program in Go", _go),
            ("make test", None if options.without_tests else _make_test),
        ):
            if action is not None:
                began = time.perf_counter()
                with _sidecar(user) if action in (_python, _go) else contextlib.nullcontext():
                    action(user)
                seconds[step] = time.perf_counter() - began
    rows = [(step, f"{taken // 60:.0f} min {taken % 60:.0f} s") for step, taken in seconds.items()]
    print_table("from a fresh clone", ("", "takes"), rows)
    write_json(options.json, {"first_use": seconds})


def _new_user(folder: Path) -> User:
    clone = folder / "embercache"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EMBERCACHE_")}
    fresh = {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PIP_CACHE_DIR": str(folder / "pip"),
        "PATH": f"{clone / '.venv/bin'}:{kept['PATH']}",
    }
    return User(clone, {**kept, **fresh})


def _make_run(user: User) -> None:
    user.run("make run")


def _make_test(user: User) -> None:
    user.run("make test")


def _python(user: User) -> None:
    program = user.clone.parent / "mine.py"
    program.write_text(_block(user.clone / "README.md", "python"))
    user.run(f"python {program}")


def _go(user: User) -> None:
    page = user.clone / "clients/go/README.md"
    folder = user.clone.parent / "mine"
    folder.mkdir()
    body = re.sub("^", "\t", _block(page, "go").rstrip(), flags=re.MULTILINE)
    (folder / "main.go").write_text(_MAIN.format(body=body))
    user.run(f"go mod init example.com/mine && {_block(page, 'sh')} go run .", folder)


def _block(page: Path, language: str, what: str = "") -> str:
    """The first block of code of a page that has something in it."""
    pattern = rf"^```{language}\n(.*?)^```"
    for block in re.findall(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if what in block:
            return block
    raise SystemExit(f"{page} has no block of {language} with {what!r}: see what it says now")


@contextlib.contextmanager
def _sidecar(user: User) -> Iterator[None]:
    """The sidecar of the README, after the commands that come before it there."""
    before, serve, _ = re.split(
        r"^(.* serve.*)\n", _block(user.clone / "README.md", "sh", " serve"), flags=re.MULTILINE
    )
    user.run(before)
    with subprocess.Popen(serve.split(), cwd=user.clone, env=user.environment) as sidecar:
        try:
            user.run("until embercache health &> /dev/null; do sleep 0.1; done")
            yield
        finally:
            sidecar.terminate()


if __name__ == "__main__":
    main()
