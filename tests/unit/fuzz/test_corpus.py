"""Every input that fuzzing has kept, through what reads it: what was found stays found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
MAX_CORPUS_BYTES = 2**20


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FUZZ / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


engine = load("engine")


@pytest.mark.parametrize("name", [each for each in engine.NAMES if each != "service_call"])
def test_no_kept_input_does_harm(name: str) -> None:
    target = engine.Target(name)
    for data in [*target.seeds, *target.corpus()]:
        target.run(data)


def test_no_kept_call_does_harm() -> None:
    """In a process of its own, for a whole sidecar is opened there and never closed."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from engine import Target;"
        " target = Target('service_call');"
        " print(sum(target.run(data) for data in [*target.seeds, *target.corpus()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(FUZZ)],
        env=os.environ | {"PYTHONPATH": str(FUZZ.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # calls that were answered


def test_what_is_sound_is_taken_and_what_is_not_is_refused() -> None:
    """Else a target could refuse all, and find nothing."""
    target = engine.Target("cache_value")
    assert target.run(target.seeds[0])
    assert not target.run(b"no value")


def test_an_input_that_takes_too_long_is_found() -> None:
    target = engine.Target("cache_value")
    target._cpu_seconds = 0.05

    def hang(_: bytes) -> None:
        while True:
            pass

    target._run = hang
    with pytest.raises(engine.HangError):
        target.run(b"")


def test_an_input_that_takes_too_much_memory_is_found() -> None:
    target = engine.Target("sealed_value")
    target._kilobytes = 1024

    def grow(_: bytes) -> None:
        # More than the whole process has ever had.
        bytearray(engine._peak_kilobytes() * 1024 + (64 << 20))

    target._run = grow
    with pytest.raises(engine.GrowthError, match="0 bytes of input took"):
        target.run(b"")


def test_what_is_not_named_is_a_crash() -> None:
    target = engine.Target("cache_value")
    target._run = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        target.run(b"")


def test_an_error_of_what_is_done_with_a_sound_input_is_a_crash_even_if_allowed_of_inputs() -> None:
    target = engine.Target("generation_value")

    def fail(_: object) -> None:
        raise ValueError("no round trip")

    target._verify = fail
    assert not target.run(b"no answer")
    with pytest.raises(ValueError, match="no round trip"):
        target.run(target.seeds[0])


@pytest.mark.parametrize("text", [b'{"a": [1, "b"], "c": null}', b"[]", b"1", b"no JSON"])
def test_json_stays_json_when_it_is_mutated(text: bytes) -> None:
    def mutate(data: bytes, most: int) -> bytes:
        return data[:most]

    made = {engine.mutate_json(text, mutate, 4096, seed) for seed in range(200)}
    assert len(made) == 1 if text == b"no JSON" else len(made) > 5
    assert made == {engine.mutate_json(text, mutate, 4096, seed) for seed in range(200)}


def test_the_corpus_is_small_and_of_targets_that_there_are() -> None:
    files = [path for path in engine.CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(engine.NAMES)
    assert sum(path.stat().st_size for path in files) < MAX_CORPUS_BYTES
