"""The Node client against a real sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def example(built: Callable[[str], Path]) -> Callable[[str], list[str | Path]]:
    """The command that runs an example."""
    built("node/node_modules")
    return lambda name: ["node", built(f"node/dist/examples/{name}.js")]


def test_the_first_program_prints_two_vectors(
    example: Callable[[str], list[str | Path]], run: Callable[..., str], sidecar: Any
) -> None:
    assert run(*example("quickstart"), address=sidecar.unix).count("Float32Array(384) [") == 2


def test_the_example_gets_the_vectors_of_python_bit_for_bit_cold_and_from_every_tier(
    example: Callable[[str], list[str | Path]], compare_with_python: Callable[..., None]
) -> None:
    compare_with_python(example("embed"))


def test_the_example_finds_what_python_finds(
    example: Callable[[str], list[str | Path]], compare_search_with_python: Callable[..., None]
) -> None:
    compare_search_with_python(example("search"))


def test_the_example_streams_what_python_generates_cold_and_from_cache(
    example: Callable[[str], list[str | Path]], compare_generation_with_python: Callable[..., None]
) -> None:
    compare_generation_with_python(example("generate"))


def test_a_wrong_address_is_refused_with_where_it_came_from(
    example: Callable[[str], list[str | Path]], run: Callable[..., str]
) -> None:
    said = run(*example("embed"), "a text", address="localhost", code=1)
    assert 'EMBERCACHE_ADDRESS is "localhost"' in said


def test_its_own_tests_pass_and_decode_every_encoding_to_the_bits_of_python(
    built: Callable[[str], Path], run: Callable[..., str], sidecar: Any, expected_vectors: Path
) -> None:
    files = sorted(built("node/dist/test").rglob("*.test.js"))
    command = ["node", "--test", "--test-reporter=spec", *files]
    said = run(*command, address=sidecar.tcp, expected=expected_vectors)
    assert "✔ every encoding is decoded to the bits that are expected" in said
