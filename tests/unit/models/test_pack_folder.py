"""Files of a pack are used only if they lie in it, are not too large, and are what is listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sidecar.models.errors import SetupError
from sidecar.models.manifest import read_manifest, write_manifest
from sidecar.models.pack_folder import MAX_CONFIG_BYTES, PackFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A folder with a file of settings, in a folder of its own, and a weight."""
    path = tmp_path / "pack"
    (path / "1_Pooling").mkdir(parents=True)
    (path / "1_Pooling" / "config.json").write_text("{}")
    (path / "model.onnx").write_bytes(b"weights")
    return path


def test_without_a_manifest_nothing_is_compared(pack: Path) -> None:
    assert PackFolder(pack).json("1_Pooling/config.json", dict) == {}
    with pytest.raises(SetupError, match=r"manifest.json: missing; `embercache models pin`"):
        PackFolder(pack).verify()


def test_an_undamaged_pack_is_verified(pack: Path) -> None:
    write_manifest(pack)
    PackFolder(pack).verify()


def test_a_file_that_was_tampered_with_is_named_when_it_is_used(pack: Path) -> None:
    write_manifest(pack)
    (pack / "model.onnx").write_bytes(b"forgery")
    folder = PackFolder(pack)
    assert folder.json("1_Pooling/config.json", dict) == {}
    path = folder.find("model.onnx", 100)
    assert path is not None
    for use in (folder.digest, folder.read, lambda _: folder.verify()):
        with pytest.raises(SetupError, match=r"pack/model.onnx: differs from what is listed"):
            use(path)


def test_a_file_of_settings_that_was_tampered_with_is_named(pack: Path) -> None:
    write_manifest(pack)
    (pack / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    with pytest.raises(SetupError, match=r"1_Pooling/config.json: differs from what is listed"):
        PackFolder(pack).json("1_Pooling/config.json", dict)


def test_a_file_that_was_added_is_named_when_it_is_used(pack: Path) -> None:
    write_manifest(pack)
    (pack / "config.json").write_text("{}")
    with pytest.raises(SetupError, match=r"pack/config.json: is not listed in manifest.json"):
        PackFolder(pack).json("config.json", dict)


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "./1_Pooling//config.json"])
def test_a_file_that_was_removed_is_named_although_packs_may_lack_it(pack: Path, name: str) -> None:
    write_manifest(pack)
    (pack / "1_Pooling" / "config.json").unlink()
    with pytest.raises(SetupError, match=r"config.json: missing; pull the pack again"):
        PackFolder(pack).json(name, dict)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"files": 1}', '{"files": {"a": 1}}', '{"files": {"a": "0"}}', "[" * 99999],
)
def test_a_damaged_manifest_is_named(pack: Path, content: str) -> None:
    (pack / "manifest.json").write_text(content)
    with pytest.raises(SetupError, match=r"pack/manifest.json: damaged, or no manifest"):
        PackFolder(pack)


def test_a_manifest_lists_all_but_itself_and_what_is_hidden(pack: Path) -> None:
    (pack / ".git").mkdir()
    (pack / ".git" / "HEAD").write_text("")
    first = write_manifest(pack)
    assert list(first.files) == ["1_Pooling/config.json", "model.onnx"]
    assert write_manifest(pack) == first == read_manifest(pack)


@pytest.mark.threat("A pack points outside of its folder")
def test_a_link_out_of_the_folder_is_refused(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (pack / "config.json").symlink_to("../secret.json")
    with pytest.raises(SetupError, match=r"pack/config.json: lies outside of the pack's folder"):
        PackFolder(pack).json("config.json", dict)


@pytest.mark.parametrize("up", ["..", "1_Pooling/../..", "./.."])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    pack: Path, tmp_path: Path, up: str
) -> None:
    (tmp_path / "secret.json").write_text("{}")
    for name in (f"{up}/secret.json", str(tmp_path / "secret.json")):
        with pytest.raises(SetupError, match=r"secret.json: lies outside of the pack's folder"):
            PackFolder(pack).json(name, dict)


def test_links_within_the_folder_are_followed_as_mounted_volumes_have_them(pack: Path) -> None:
    (pack / "..data").mkdir()
    (pack / "..data" / "config.json").write_text("{}")
    (pack / "config.json").symlink_to("..data/config.json")
    assert PackFolder(pack).json("config.json", dict) == {}


def test_a_folder_may_itself_be_a_link(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "name").symlink_to(pack)
    assert PackFolder(tmp_path / "name").json("1_Pooling/config.json", dict) == {}


def test_links_of_the_model_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    for folder in ("blobs", "refs"):
        (repository / folder).mkdir()
        (repository / folder / "f00d").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/f00d")
    (snapshot / "other.json").symlink_to("../../refs/f00d")
    assert PackFolder(snapshot).json("config.json", dict) == {}
    with pytest.raises(SetupError, match="lies outside"):
        PackFolder(snapshot).json("other.json", dict)


def test_a_file_of_settings_of_absurd_size_is_refused_before_it_is_read(pack: Path) -> None:
    with (pack / "config.json").open("wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(SetupError, match=r"config.json: has \d+ bytes, more than .*allowed"):
        PackFolder(pack).json("config.json", dict)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_settings_that_are_no_json_are_named(pack: Path, content: bytes) -> None:
    (pack / "config.json").write_bytes(content)
    with pytest.raises(SetupError, match=r"pack/config.json: not valid JSON"):
        PackFolder(pack).json("config.json", dict)


def test_settings_of_another_shape_are_named(pack: Path) -> None:
    (pack / "config.json").write_text(json.dumps([]))
    with pytest.raises(SetupError, match=r"pack/config.json: a JSON dict is expected"):
        PackFolder(pack).json("config.json", dict)


@pytest.mark.parametrize("name", ["a" * 5000, "\0", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_or_not_there(pack: Path, name: str) -> None:
    try:
        assert PackFolder(pack).find(name, 1) is None
    except SetupError as error:
        assert "cannot be read" in str(error)  # noqa: PT017
