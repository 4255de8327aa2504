"""The command ``embercache``."""

from __future__ import annotations

import importlib
import os
import signal
from collections import UserDict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator


class Entry(NamedTuple):
    """A command: the module of `sidecar.cli` that has it, and how its help begins."""

    module: str
    summary: str


# A new command is one entry here; its function has the command's name.
COMMANDS = {
    "config": Entry("config", "Check settings, or show them."),
    "documents": Entry("documents", "Store documents to be searched, and remove them."),
    "embed": Entry("embed", "Embed TEXTS, or the lines of a file or of standard input."),
    "events": Entry("events", "Tell of documents that changed outside."),
    "flush": Entry("invalidate", "Empty the hot and the disk tier of one sidecar."),
    "generate": Entry("generate", "Generate the text that follows PROMPT, and show it."),
    "health": Entry("health", "Ask a sidecar whether it serves."),
    "inject": Entry("inject", "Add the sidecar to pods in FILE as the injector does."),
    "injector": Entry("injector", "Run the admission webhook that gives pods their sidecar."),
    "invalidate": Entry("invalidate", "Make entries invalid, on every sidecar."),
    "models": Entry("models", "Fetch, list and check model packs."),
    "plan": Entry("plan", "Work out memory, latency, load and money of a cache of vectors."),
    "search": Entry("search", "Find the chunks of documents that are nearest to QUERY."),
    "semantic": Entry("semantic", "Choose the threshold of semantic answers."),
    "serve": Entry("serve", "Run a sidecar until SIGTERM, then let calls in progress end."),
    "stats": Entry("stats", "Show what a sidecar answered since it started."),
    "top": Entry("top", "Show live whether a sidecar is well and what it answers."),
    "warm": Entry("warm", "Compute and store what is not cached yet."),
}


class _Commands(UserDict[str, click.Command]):
    """The commands by name; a command's module is imported when the command is asked for.

    All of them take more than a second to import, and a probe runs `embercache health` every few
    seconds.
    """

    def __getitem__(self, name: str) -> click.Command:
        if name in COMMANDS and name not in self.data:
            module = importlib.import_module(f"{__name__}.{COMMANDS[name].module}")
            self.data[name] = getattr(module, name)
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Embercache(click.Group):
    """Lists the commands without importing them, and can be the first process of a container."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click asks for it."""
        if os.getpid() == 1:
            # The kernel spares it, unless it handles the signal itself.
            signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
        # Else gRPC, which is not imported yet, would write a line for each TLS handshake that
        # fails: whoever reaches a port could fill the log.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click asks for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(
    cls=_Embercache,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="embercache")
def main() -> None:
    """Embercache: a gRPC sidecar that answers model calls from cache.

    \b
    To begin with:
      embercache models pull minilm
      embercache serve --dev
      embercache embed "how warm is an ember?"
      embercache documents add docs/
      embercache search "how warm is an ember?"
    """
