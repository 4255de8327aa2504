"""Finding packs, and checking them against their manifests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.models.errors import SetupError
from sidecar.models.packs import (
    PACKS,
    default_folder,
    list_packs,
    resolve,
    verify,
    write_manifest,
)

MINILM = PACKS["minilm"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with a pulled pack, of which only the manifest is real."""
    path = tmp_path / "minilm"
    (path / "1_Pooling").mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"weights")
    (path / "1_Pooling" / "config.json").write_bytes(b"{}")
    write_manifest(path, MINILM)
    return tmp_path


def test_packs_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_folder() == Path("/cache/embercache/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/embercache/models")


def test_the_list_tells_which_packs_are_pulled(folder: Path, tmp_path: Path) -> None:
    assert list(PACKS) == ["minilm", "smollm2-135m", "smollm2-135m-fp32"]
    found = [(s.pack, s.path) for s in list_packs(folder)]
    assert found == [(p, folder / "minilm" if p == MINILM else None) for p in PACKS.values()]
    assert [(s.pack, s.path) for s in list_packs(tmp_path / "none")] == [
        (pack, None) for pack in PACKS.values()
    ]


def test_a_name_stands_for_its_pulled_pack(folder: Path) -> None:
    assert resolve("minilm", folder) == folder / "minilm"


def test_a_path_stands_for_itself(folder: Path, tmp_path: Path) -> None:
    assert resolve(str(folder / "minilm"), tmp_path / "none") == folder / "minilm"


def test_a_pack_not_pulled_yet_says_how_to_pull_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="run `embercache models pull minilm`"):
        resolve("minilm", tmp_path)


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no model 'other': .*\(minilm, smollm2-135m, "):
        resolve("other", tmp_path)


def test_an_undamaged_pack_is_verified_by_name_and_by_path(folder: Path) -> None:
    assert verify("minilm", folder) == folder / "minilm"
    assert verify(str(folder / "minilm"), folder / "none") == folder / "minilm"


def test_a_changed_file_is_named(folder: Path) -> None:
    (folder / "minilm" / "1_Pooling" / "config.json").write_bytes(b"{ }")
    with pytest.raises(SetupError, match=r"1_Pooling/config.json: differs from what was pulled"):
        verify("minilm", folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "minilm" / "model.onnx").unlink()
    with pytest.raises(SetupError, match=r"minilm/model.onnx: missing; pull the pack again"):
        verify("minilm", folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 1}'])
def test_a_damaged_manifest_is_named(folder: Path, content: str) -> None:
    (folder / "minilm" / "manifest.json").write_text(content)
    with pytest.raises(SetupError, match=r"minilm/manifest.json: damaged"):
        verify("minilm", folder)


def test_a_folder_that_was_not_pulled_has_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"manifest.json: missing; only packs from `models pull`"):
        verify(str(tmp_path), tmp_path)


def test_built_in_packs_are_pinned_by_sha256() -> None:
    for pack in PACKS.values():
        for digest in (pack.wheel_sha256, *pack.files.values()):
            assert re.fullmatch("[0-9a-f]{64}", digest)
