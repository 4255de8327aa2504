"""The Rust client against a real sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def program(example: Callable[[str, str], list[str | Path]]) -> list[str | Path]:
    """The example."""
    return example("rust", "embed")


def test_the_example_gets_the_vectors_of_python_bit_for_bit_cold_and_from_every_tier(
    program: list[str | Path], compare_with_python: Callable[..., None]
) -> None:
    compare_with_python(program)


def test_the_example_names_the_variable_that_holds_a_wrong_address(
    program: list[str | Path], run: Callable[..., str]
) -> None:
    assert 'EMBERCACHE_ADDRESS is "localhost"' in run(
        *program, "a text", address="localhost", code=1
    )


def test_its_own_tests_pass_and_decode_every_encoding_to_the_bits_of_python(
    built: Callable[[str], Path], run: Callable[..., str], address: str, expected_vectors: Path
) -> None:
    # Cargo has a hash in the name of what it builds, and keeps what it built before.
    programs = [
        each for each in built("rust/target/debug/deps").glob("sidecar-*") if not each.suffix
    ]
    newest = max(programs, key=lambda each: each.stat().st_mtime)
    said = run(newest, "--ignored", address=address, expected=expected_vectors)
    assert "every_encoding_is_decoded_to_the_bits_that_are_expected ... ok" in said
