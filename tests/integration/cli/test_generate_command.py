"""`embercache generate` against a real sidecar with the real SmolLM2."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from click.testing import Result

    Run = Callable[..., Result]

HANG_GUARD = 60.0
MANUAL = "The kettle is switched on at its base. It is to be descaled once a month. " * 10


@pytest.fixture
def generate(run: Run, namespace: str) -> Run:
    """Runs ``embercache generate`` in the test's own namespace."""

    def run_generate(*arguments: str, **options: Any) -> Result:
        result = run("generate", "--namespace", namespace, *arguments, **options)
        assert result.exit_code == 0, result.stderr
        return result

    return run_generate


def reused(result: Result) -> int:
    found = re.search(r"; ([\d,]+) of [\d,]+ tokens of the prompt reused", result.stderr)
    assert found
    return int(found[1].replace(",", ""))


def test_what_was_generated_is_given_again(generate: Run) -> None:
    first, second = generate("Why do embers glow?"), generate("Why do embers glow?")
    assert len(first.stdout) > 20
    assert second.stdout == first.stdout
    assert first.stderr.startswith("smollm2-135m: computed; first text after ")
    assert re.search(r" tokens at [\d.]+/s; finish reason: (stop|length)\n$", first.stderr)
    assert second.stderr.startswith("smollm2-135m: from the hot tier, ")


def test_json_tells_what_the_stream_shows(generate: Run) -> None:
    text = generate("Why do embers glow?").stdout
    answer = json.loads(generate("Why do embers glow?", "--json").stdout)
    assert answer["text"] == text.removesuffix("\n")
    assert (answer["tier"], answer["model"]) == ("hot", "smollm2-135m")
    assert answer["completion_tokens"] == len(answer["tokens"]) <= 16


def test_the_beginning_of_a_prompt_is_not_read_again(generate: Run) -> None:
    about = ("--system", MANUAL, "--max-tokens", "4")
    assert reused(generate("How is it cleaned?", *about)) == 0
    assert reused(generate("Where is it switched on?", *about)) > 150


def test_a_prompt_is_in_the_template_of_the_model_unless_it_is_raw(generate: Run) -> None:
    chat, raw = ("--json", "Once upon a time"), ("--json", "--raw", "Once upon a time")
    in_chat, as_it_is = (json.loads(generate(*each).stdout) for each in (chat, raw))
    assert in_chat["prompt_tokens"] > as_it_is["prompt_tokens"] == 4
    assert in_chat["text"] != as_it_is["text"]


def test_a_random_answer_is_another_each_time_unless_it_has_a_seed(generate: Run) -> None:
    hot = ("Tell me a story.", "--temperature", "1.5")
    assert len({generate(*hot).stdout for _ in range(4)}) > 1
    assert generate(*hot, "--seed", "1").stdout == generate(*hot, "--seed", "1").stdout


@pytest.mark.parametrize(
    "target",
    [("--prompt", "Why do embers glow?"), ("--kind", "generate"), ("--whole-namespace",)],
    ids=" ".join,
)
def test_an_invalidated_answer_is_generated_again(
    run: Run, generate: Run, namespace: str, target: tuple[str, ...]
) -> None:
    for flags in ((), ("--raw",)):
        generate("Why do embers glow?", *flags)
    assert run("invalidate", "--namespace", namespace, *target).exit_code == 0
    for flags in ((), ("--raw",)):
        again = generate("Why do embers glow?", *flags)
        assert again.stderr.startswith("smollm2-135m: computed; ")


def test_what_is_kept_of_prompts_is_invalidated_apart_from_answers(
    run: Run, generate: Run, namespace: str
) -> None:
    about = ("--system", MANUAL, "--max-tokens", "4")
    generate("How is it cleaned?", *about)
    result = run("invalidate", "--namespace", namespace, "--kind", "prefix")
    assert result.stdout.startswith("invalidated every entry of the kind prefix in the namespace ")
    assert "from the hot tier" in generate("How is it cleaned?", *about).stderr
    assert reused(generate("Where is it switched on?", *about)) == 0


def test_stats_tell_of_the_generator_and_what_it_keeps_of_prompts(
    run: Run, generate: Run, namespace: str
) -> None:
    before = json.loads(run("stats", "--json").stdout)["generators"][0]
    generate("How is it cleaned?", "--system", MANUAL)
    generate("Where is it switched on?", "--system", MANUAL)
    stats = json.loads(run("stats", "--json").stdout)
    (after,) = stats["generators"]
    assert after["name"] == "smollm2-135m"
    assert after["generated"] - before["generated"] == 2
    assert after["prefix"]["reused_tokens"]["hot"] > before["prefix"]["reused_tokens"].get("hot", 0)
    assert 0 < after["prefix"]["bytes"] <= after["prefix"]["capacity_bytes"]
    (usage,) = [each for each in stats["usage"] if each["namespace"] == namespace]
    assert (usage["kind"], usage["answered"]["computed"]) == ("generate", 2)
    table = run("stats").stdout
    assert len([line for line in table.splitlines() if line.startswith("smollm2-135m")]) == 2


async def test_ctrl_c_stops_the_work_of_the_model(
    run: Run, address: str, namespace: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    def generator() -> Any:
        return json.loads(run("stats", "--json").stdout)["generators"][0]

    before = generator()["abandoned"]
    command = [sys.executable, "-m", "sidecar", "generate", "Tell me a very long story."]
    command += ["--max-tokens", "4000", "--namespace", namespace, "--address", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANG_GUARD)[1] == b""
    assert process.returncode == 130
    await eventually(lambda: generator()["active"] == 0)
    assert generator()["abandoned"] == before + 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--raw", ""), "the prompt is empty"),
        (("p", "--model", "minilm"), "no generator 'minilm'; it has: smollm2-135m"),
        (("word " * 9000,), "8192"),
        (("p", "--stop", ""), "a stop string has 1 to 256 bytes"),
        (("p", "--mode", "only-if-cached"), "not in any tier of the cache"),
    ],
    ids=["empty", "no generator", "too long", "empty stop", "not cached"],
)
def test_what_cannot_be_generated_is_refused_with_the_reason(
    run: Run, namespace: str, arguments: tuple[str, ...], complaint: str
) -> None:
    result = run("generate", "--namespace", namespace, *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stdout == ""
