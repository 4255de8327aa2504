"""`embercache models` with the real packs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner

from sidecar.cli import main
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.pack import read_pack

if TYPE_CHECKING:
    from pathlib import Path


def test_packs_that_embed_and_packs_that_generate_are_listed_with_their_versions(
    minilm_folder: Path, smollm2_folder: Path
) -> None:
    result = CliRunner().invoke(main, ["models", "list", "--folder", str(minilm_folder.parent)])
    assert f"version {read_pack(minilm_folder).version}\n" in result.stdout
    assert f"version {read_decoder_pack(smollm2_folder).version}\n" in result.stdout
    assert "damaged" not in result.stdout


def test_packs_of_both_kinds_are_verified(minilm_folder: Path, smollm2_folder: Path) -> None:
    for folder in (minilm_folder, smollm2_folder):
        arguments = ["models", "verify", folder.name, "--folder", str(folder.parent)]
        result = CliRunner().invoke(main, arguments)
        assert result.stdout == f"{folder}: whole\n"
