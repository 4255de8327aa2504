"""`embercache models`, as far as it needs no network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from sidecar.cli import main
from sidecar.models.manifest import write_manifest
from sidecar.models.packs import PACKS, resolve

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with a small pack in place of a built-in one."""
    path = tmp_path / "minilm"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"x" * 2000)
    digest = write_manifest(path, PACKS["minilm"].source).digest
    monkeypatch.setitem(PACKS, "minilm", replace(PACKS["minilm"], digests=(digest,)))
    return tmp_path


def test_the_list_says_how_to_get_what_is_not_there(tmp_path: Path) -> None:
    result = run("list", "--folder", str(tmp_path))
    assert result.exit_code == 0
    assert "minilm: all-MiniLM-L6-v2" in result.stdout
    assert "not pulled: run `embercache models pull minilm`" in result.stdout


def test_the_list_says_where_a_pack_is_and_how_large(pulled: Path) -> None:
    result = run("list", "--folder", str(pulled))
    assert f"{pulled / 'minilm'}, 2." in result.stdout
    assert "kB" in result.stdout


def test_the_list_says_that_a_pack_cannot_be_read(pulled: Path) -> None:
    assert "damaged: " in run("list", "--folder", str(pulled)).stdout


def test_the_list_says_that_a_pack_is_not_what_a_pull_makes(pulled: Path) -> None:
    told = "not what `embercache models pull minilm` makes today"
    assert told not in run("list", "--folder", str(pulled)).stdout
    (pulled / "minilm" / "model.onnx").write_bytes(b"other")
    assert told in run("list", "--folder", str(pulled)).stdout


def test_the_folder_comes_from_the_settings(pulled: Path, tmp_path: Path) -> None:
    environment = {"EMBERCACHE_MODEL_FOLDER": str(pulled)}
    by_variable = CliRunner(env=environment).invoke(main, ["models", "verify"])
    assert by_variable.stdout == f"{pulled / 'minilm'}: whole\n"
    file = tmp_path / "settings.yaml"
    file.write_text(f"model: {{folder: {pulled}}}")
    assert run("verify", "--config", str(file)).stdout == by_variable.stdout


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("modle: {}")
    result = run("list", "--config", str(file))
    assert result.exit_code == 2
    assert "modle" in result.stderr


def test_verify_names_the_file_that_has_changed(pulled: Path) -> None:
    (pulled / "minilm" / "model.onnx").write_bytes(b"other")
    result = run("verify", "--folder", str(pulled))
    assert result.exit_code == 1
    assert "model.onnx: differs from what is listed" in result.stderr


def test_verify_has_nothing_to_say_of_an_empty_folder(tmp_path: Path) -> None:
    result = run("verify", "--folder", str(tmp_path))
    assert result.exit_code == 1
    assert "no pack is in" in result.stderr


def test_a_pack_that_does_not_exist_cannot_be_pulled(tmp_path: Path) -> None:
    result = run("pull", "maxilm", "--folder", str(tmp_path))
    assert result.exit_code == 1
    assert "no built-in pack 'maxilm'; there are: minilm" in result.stderr


def test_a_pinned_folder_is_named_as_settings_take_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    result = run("pin", str(tmp_path))
    assert result.exit_code == 0
    assert resolve(result.stdout.strip(), tmp_path / "none") == tmp_path
    assert run("verify", result.stdout.strip()).stdout == f"{tmp_path}: whole\n"
    (tmp_path / "model.onnx").write_bytes(b"others")
    assert "model.onnx: differs from what is listed" in run("verify", str(tmp_path)).stderr


def test_a_manifest_that_is_none_of_ours_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert "no manifest of a pack" in run("pin", str(tmp_path)).stderr
    assert (tmp_path / "manifest.json").read_text() == "{}"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    assert f"{tmp_path}: cannot be pinned" in run("pin", str(tmp_path)).stderr
