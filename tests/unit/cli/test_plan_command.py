"""`embercache plan`: it shows the figures of the arithmetic."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner, Result

from sidecar.cache.codec import Codec
from sidecar.cli import main
from sidecar.plan import Workload, plan

WORK = Workload(2_000_000, 768, Codec.INT8, hit_rate=0.75, hit_ms=0.5, miss_ms=40.0, replicas=3)
ARGUMENTS = "--entries 2000000 --dim 768 --codec int8 --hit-rate 0.75 --hit-ms 0.5 --miss-ms 40"
PAID = "--calls-per-second 200 --tokens 120 --price-per-1000-tokens 0.0001"


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    result = CliRunner(env=env).invoke(main, ["plan", *" ".join(arguments).split()])
    assert result.exit_code == 0
    return result


def test_the_json_is_the_arithmetic() -> None:
    shown = run(ARGUMENTS, "--replicas 3", "--transport grpcio", "--json").stdout
    assert json.loads(shown) == asdict(plan(WORK))


def test_memory_is_that_of_the_transport_that_will_run() -> None:
    native = pytest.importorskip("embercache_native").ENTRY_OVERHEAD_BYTES
    figures = plan(replace(WORK, overhead_bytes=native))
    assert native != WORK.overhead_bytes
    for transport in ("auto", "native"):
        shown = run(ARGUMENTS, "--replicas 3", f"--transport {transport}", "--json").stdout
        assert json.loads(shown) == asdict(figures)
    assert f"and {native:,} of objects" in run(ARGUMENTS, "--transport native").stdout
    grpcio = {"EMBERCACHE_SERVER_TRANSPORT": "grpcio"}
    assert f"and {WORK.overhead_bytes:,} of objects" in run(ARGUMENTS, env=grpcio).stdout


def test_every_figure_is_explained() -> None:
    lines = {line[:15].strip(): line[15:].strip() for line in run(ARGUMENTS).stdout.splitlines()}
    figures = plan(WORK)
    assert lines["value"].startswith(f"{figures.value_bytes:,} bytes: a header, and the vector")
    assert lines["with cache"] == "10.50 ms on average: 0.50 to look, and 25.0% of 40.00"
    assert lines["speed-up"] == "3.8 times"
    assert lines["break-even"].startswith("1.2% hit rate;")
    assert lines["share"] == "25.0% of the calls reach it"


def test_load_and_money_are_shown_if_they_are_known() -> None:
    assert "Money" not in run(ARGUMENTS).stdout
    assert "load" not in run(ARGUMENTS).stdout
    lines = {
        line[:15].strip(): line[15:].strip() for line in run(ARGUMENTS, PAID).stdout.splitlines()
    }
    assert lines["load"] == "50.0 calls a second, instead of 200.0"
    # 200 calls a second for 30 days, of 120 tokens each: 62,208,000,000 tokens.
    assert lines["saved"] == "4,665.60"


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "option",
    ["hit-rate", "hit-ms", "miss-ms", "calls-per-second", "tokens", "price-per-1000-tokens"],
)
def test_what_is_no_number_to_reckon_with_is_refused(option: str, number: str) -> None:
    arguments = ["plan", *ARGUMENTS.split(), *PAID.split(), f"--{option}={number}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert f"--{option}" in result.stderr
