"""`embercache models pull` with a small pack and an index on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from sidecar.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.models.packs import BuiltInPack


def test_a_pull_prints_the_folder_and_apart_from_it_its_stages(
    index: Any, tiny_pack: BuiltInPack, tmp_path: Path
) -> None:
    arguments = ["models", "pull", "tiny", "--folder", str(tmp_path / "models")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0
    assert first.stdout == f"{tmp_path / 'models' / 'tiny'}\n"
    stages = [line.split()[:2] for line in first.stderr.splitlines()]
    assert stages == [["tiny:", stage] for stage in ("find", "download", "unpack", "build")]
    assert "MB" in first.stderr
    second = CliRunner().invoke(main, arguments)
    assert (second.stdout, second.stderr) == (first.stdout, "")


def test_a_pull_that_breaks_off_says_how_to_go_on(
    index: Any, tiny_pack: BuiltInPack, tmp_path: Path
) -> None:
    index.cuts = [400_000]
    result = CliRunner().invoke(main, ["models", "pull", "tiny", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "run the command again to resume it" in result.stderr
