"""Finding packs, and checking them against their manifests."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.models.errors import SetupError
from sidecar.models.manifest import Manifest, write_manifest
from sidecar.models.packs import PACKS, default_folder, list_packs, pinned, resolve

MINILM = PACKS["minilm"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with a small pack in place of a built-in one."""
    path = tmp_path / "minilm"
    (path / "1_Pooling").mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"weights")
    (path / "1_Pooling" / "config.json").write_bytes(b"{}")
    digest = write_manifest(path, MINILM.source).digest
    monkeypatch.setitem(PACKS, "minilm", replace(MINILM, digests=(digest, "0" * 64)))
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
    assert found == [(p, folder / "minilm" if p.name == "minilm" else None) for p in PACKS.values()]
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


def test_a_built_in_pack_that_was_made_otherwise_is_refused(folder: Path) -> None:
    (folder / "minilm" / "model.onnx").write_bytes(b"other weights")
    write_manifest(folder / "minilm", MINILM.source)
    with pytest.raises(SetupError, match=r"manifest.json: has .*; run `embercache models pull mi"):
        resolve("minilm", folder)


def test_a_built_in_pack_of_an_earlier_revision_may_still_be_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = PACKS["minilm"].digests
    monkeypatch.setitem(PACKS, "minilm", replace(MINILM, digests=("1" * 64, *known)))
    assert resolve("minilm", folder) == folder / "minilm"


@pytest.fixture
def mine(folder: Path) -> tuple[Path, Manifest]:
    """A folder of the user's own, and the manifest that he has written for it."""
    return folder / "minilm", write_manifest(folder / "minilm")


def test_a_pinned_folder_is_found_if_it_has_the_manifest(mine: tuple[Path, Manifest]) -> None:
    path, manifest = mine
    assert pinned(*mine) == f"{path}@sha256:{manifest.digest}"
    assert resolve(pinned(*mine), Path("none")) == path


def test_a_pinned_folder_with_another_manifest_is_refused(mine: tuple[Path, Manifest]) -> None:
    path, manifest = mine
    with pytest.raises(SetupError, match=rf"has the sha256 {manifest.digest}, but .* to 0000"):
        resolve(f"{path}@sha256:{'0' * 64}", Path("none"))


def test_a_pinned_folder_without_a_manifest_is_refused(mine: tuple[Path, Manifest]) -> None:
    (mine[0] / "manifest.json").unlink()
    with pytest.raises(SetupError, match=r"manifest.json: missing, but the pack is pinned"):
        resolve(pinned(*mine), Path("none"))


def test_a_built_in_pack_may_be_pinned_to_one_revision(folder: Path) -> None:
    newest, older = PACKS["minilm"].digests
    assert resolve(f"minilm@sha256:{newest}", folder) == folder / "minilm"
    with pytest.raises(SetupError, match="pinned to 0000"):
        resolve(f"minilm@sha256:{older}", folder)


@pytest.mark.parametrize("pin", ["", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_pin_that_is_no_digest_is_refused(mine: tuple[Path, Manifest], pin: str) -> None:
    with pytest.raises(SetupError, match="write @sha256: and the 64 digits"):
        resolve(f"{mine[0]}@sha256:{pin}", Path("none"))


def test_built_in_packs_are_pinned_by_sha256() -> None:
    for pack in PACKS.values():
        for digest in (pack.wheel_sha256, *pack.digests, *pack.files.values()):
            assert re.fullmatch("[0-9a-f]{64}", digest)
