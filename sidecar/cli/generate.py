"""``embercache generate``: the text that follows a prompt, as it comes."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
from embercache import ChatMessage

from sidecar.cli.cache_options import cache_options, semantic_option
from sidecar.cli.connection import address_option, connected
from sidecar.cli.generate_outputs import as_json, open_text, summary
from sidecar.cli.parameters import NumberType

if TYPE_CHECKING:
    from collections.abc import Callable

    from embercache import Client, GenerateOptions, GenerateStream, GeneratorModel
    from embercache.generate import Prompt

# A long prompt on a busy CPU is slow, and others may be first.
_PIECE_SECONDS = 600.0
_INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended

_NO_GENERATOR = (
    "the sidecar generates nothing. Where it runs, fetch a model and name it in the settings:\n"
    "  embercache models pull smollm2-135m\n"
    "  EMBERCACHE_GENERATOR_PACKS=smollm2-135m embercache serve"
)


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the fields of ``Sampling`` that can be written down."""
    for option in (
        click.option("--stop", multiple=True, help="end before this text; may be repeated"),
        click.option("--seed", type=click.IntRange(min=0), help="the same answer each time"),
        click.option(
            "--repetition-penalty",
            type=NumberType(min=0, min_open=True, max=10),
            help="above 1, tokens that were there are less likely to come again",
        ),
        click.option(
            "--min-p",
            type=NumberType(min=0, max=1),
            help="only tokens with this share of the likeliest one's probability",
        ),
        click.option(
            "--top-p",
            type=NumberType(min=0, min_open=True, max=1),
            help="only the likeliest tokens that together have this probability",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(min=0),
            default=0,
            help="only the so many likeliest tokens; 0 for all",
        ),
        click.option(
            "--temperature",
            type=NumberType(min=0, max=2),
            help="0 takes the likeliest token each time  [default: 0, or the service's own]",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(min=1),
            help="most tokens to generate  [default: as the sidecar is set]",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--chat/--raw",
    default=None,
    help="send the prompt as a user's message in the model's own template, or as it is"
    "  [default: --chat if the model has a template]",
)
@click.option("--system", metavar="TEXT", help="message of the system before the prompt")
@click.option("--system-file", type=click.File("rb"), help="the same, from a file")
@click.option("--model", default="", help="a generator's name  [default: the sidecar's first]")
@_sampling_options
@cache_options
@semantic_option
@click.option(
    "--store-sampled",
    is_flag=True,
    help="read and store even an answer drawn at random (a temperature above 0 and no seed)",
)
@address_option
@click.option("--json", "is_json", is_flag=True, help="the whole answer, as one JSON object")
@click.option("--quiet", is_flag=True, help="no summary on standard error")
@click.pass_context
def generate(
    ctx: click.Context,
    /,
    prompt: str | None,
    chat: bool | None,
    system: str | None,
    system_file: BinaryIO | None,
    address: str,
    is_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Generate the text that follows PROMPT, and show it as it comes.

    Without PROMPT, or with -, it is read from standard input; unless it is --raw, the end of its
    last line is not part of it. The summary says what answered: a tier of the cache, or "computed"
    and how much of the prompt the model did not have to read again.

    \b
    Examples:
      embercache generate "Why do embers glow?"
      embercache generate --system-file manual.md "How is it cleaned?" --max-tokens 100
      embercache generate --raw "Once upon a time" --temperature 0.8 --seed 7
      embercache generate --json < question.txt | jq -r .text
    """
    if system is not None and system_file is not None:
        raise click.UsageError("give --system or --system-file, not both")
    if system_file is not None:
        system = _without_line_end(_decoded(system_file.read(), system_file.name))
    if chat is False and system is not None:
        raise click.UsageError("a prompt that is --raw has no message of the system")
    try:
        text = _read(prompt, is_raw=chat is False)
        with connected(address) as client:
            asked = _prompt(_generator(client, options["model"]), text, system, chat)
            _show(client, asked, cast("GenerateOptions", options), is_json=is_json, quiet=quiet)
    except KeyboardInterrupt:
        ctx.exit(_INTERRUPTED)


def _read(prompt: str | None, *, is_raw: bool) -> str:
    if prompt not in (None, "-"):
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("nothing to go on from: give PROMPT, or pipe it in")
    text = _decoded(sys.stdin.buffer.read(), "standard input")
    return text if is_raw else _without_line_end(text)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{name} is not UTF-8 (byte {error.start + 1})") from None


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _generator(client: Client, name: str) -> GeneratorModel:
    generators = client.generators()
    if not generators:
        raise click.ClickException(_NO_GENERATOR)
    for generator in generators:
        if name in ("", generator.name):
            return generator
    names = ", ".join(generator.name for generator in generators)
    raise click.ClickException(f"the sidecar has no generator {name!r}; it has: {names}")


def _prompt(generator: GeneratorModel, text: str, system: str | None, chat: bool | None) -> Prompt:
    is_chat = generator.accepts_chat if chat is None else chat
    if not is_chat and system is None:
        return text
    if not generator.accepts_chat:
        raise click.ClickException(
            f"{generator.name} has no template for conversations: use --raw, and no message of the"
            " system"
        )
    asked = ChatMessage("user", text)
    return [asked] if system is None else [ChatMessage("system", system), asked]


def _show(
    client: Client, prompt: Prompt, options: GenerateOptions, *, is_json: bool, quiet: bool
) -> None:
    started = time.perf_counter()
    stream = client.generate_stream(prompt, timeout=_PIECE_SECONDS, **options)
    with contextlib.closing(stream):
        if is_json:
            for _ in stream:
                pass
            click.echo(as_json(stream.result))
            return
        first = _write(stream)
    if not quiet:
        click.echo(summary(stream.result, None if first is None else first - started), err=True)


def _write(stream: GenerateStream) -> float | None:
    """Writes all the pieces; returns when the first came, None if there was none."""
    first = None
    with open_text() as write:
        for piece in stream:
            first = first or time.perf_counter()
            write(piece)
    return first
