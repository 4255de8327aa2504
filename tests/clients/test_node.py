"""The Node client against a real sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_first_program_prints_two_vectors(
    example: Callable[[str, str], list[str | Path]], run: Callable[..., str], sidecar: Any
) -> None:
    assert (
        run(*example("node", "quickstart"), address=sidecar.unix).count("Float32Array(384) [") == 2
    )


def test_the_example_gets_the_vectors_of_python_bit_for_bit_cold_and_from_every_tier(
    example: Callable[[str, str], list[str | Path]], compare_with_python: Callable[..., None]
) -> None:
    compare_with_python(example("node", "embed"))


def test_the_example_finds_what_python_finds(
    example: Callable[[str, str], list[str | Path]], compare_search_with_python: Callable[..., None]
) -> None:
    compare_search_with_python(example("node", "search"))


def test_the_example_streams_what_python_generates_cold_and_from_cache(
    example: Callable[[str, str], list[str | Path]],
    compare_generation_with_python: Callable[..., None],
) -> None:
    compare_generation_with_python(example("node", "generate"))


def test_a_wrong_address_is_refused_with_where_it_came_from(
    example: Callable[[str, str], list[str | Path]], run: Callable[..., str]
) -> None:
    said = run(*example("node", "embed"), "a text", address="localhost", code=1)
    assert 'EMBERCACHE_ADDRESS is "localhost"' in said


def test_its_own_tests_pass_and_decode_every_encoding_to_the_bits_of_python(
    built: Callable[[str], Path], run: Callable[..., str], sidecar: Any, expected_vectors: Path
) -> None:
    files = sorted(built("node/dist/test").rglob("*.test.js"))
    command = ["node", "--test", "--test-reporter=spec", *files]
    said = run(*command, address=sidecar.tcp, expected=expected_vectors)
    assert "✔ every encoding is decoded to the bits that are expected" in said
