"""A change to the contract that would break a client that is out already does not pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Edit = Callable[[str, str, str], None]
    Compare = Callable[[], subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "proto" / "released.binpb"
BUF = Path(sys.executable).with_name("buf")


def buf(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``buf`` says of the contract in a folder."""
    return subprocess.run(
        [BUF, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """A copy of the contract."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "proto" / "embercache", tmp_path / "proto" / "embercache")
    return tmp_path


@pytest.fixture
def edit(contract: Path) -> Edit:
    """Replaces a text that is once in a file of that copy."""

    def replace(name: str, old: str, new: str) -> None:
        path = contract / "proto" / "embercache" / "v1" / f"{name}.proto"
        text = path.read_text("utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), "utf-8")

    return replace


@pytest.fixture
def compare(contract: Path) -> Compare:
    """Compares that copy with the contract itself, as if that were released."""
    assert buf(ROOT, "build", "-o", contract / "released.binpb").returncode == 0
    return lambda: buf(contract, "breaking", "--against", contract / "released.binpb")


def test_the_contract_breaks_no_client_of_the_last_release() -> None:
    ended = buf(ROOT, "breaking", "--against", RELEASED)
    assert ended.returncode == 0, ended.stdout


def test_the_contract_has_the_form_that_buf_yaml_asks_for() -> None:
    ended = buf(ROOT, "lint")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        pytest.param(
            "embed",
            "  Truncation truncation = 7;\n",
            "",
            'present field "7" with name "truncation" on message "EmbedRequest" was deleted',
            id="field removed",
        ),
        pytest.param(
            "embed",
            "  Truncation truncation = 7;\n",
            '  reserved 7;\n  reserved "truncation";\n',
            'present field "7" with name "truncation" on message "EmbedRequest" was deleted',
            id="field reserved, for which old clients wait",
        ),
        pytest.param(
            "embed",
            "  Truncation truncation = 7;\n",
            "  string language = 7;\n",
            'Field "7" with name "language" on message "EmbedRequest" changed type',
            id="number reused",
        ),
        pytest.param(
            "embed",
            "fixed64 age_ms = 8;",
            "uint64 age_ms = 8;",
            'Field "8" with name "age_ms" on message "Embedding" changed type',
            id="type changed",
        ),
        pytest.param(
            "embed",
            "  uint32 dimensions = 3;\n  Encoding encoding = 4;\n}",
            "  uint32 dimensions = 5;\n  Encoding encoding = 4;\n}",
            'present field "3" with name "dimensions" on message "EmbedResponse" was deleted',
            id="field renumbered",
        ),
        pytest.param(
            "search",
            "uint32 top_k = 7;",
            "uint32 limit = 7;",
            'Field "7" on message "SearchRequest" changed name from "top_k" to "limit"',
            id="field renamed",
        ),
        pytest.param(
            "search",
            "optional float score_threshold = 9;",
            "float score_threshold = 9;",
            'Field "9" with name "score_threshold" on message "SearchRequest" changed cardinality',
            id="absence no longer told",
        ),
        pytest.param(
            "generate",
            "  repeated string stop = 8;",
            "  string stop = 8;",
            'Field "8" with name "stop" on message "Sampling" changed cardinality',
            id="list made single",
        ),
        pytest.param(
            "generate",
            "    Chat chat = 2;\n  }\n",
            "  }\n  Chat chat = 2;\n",
            'Field "2" with name "chat" on message "GenerateRequest" moved from inside to outside',
            id="field moved out of its oneof",
        ),
        pytest.param(
            "embed",
            "  rpc ListModels(ListModelsRequest) returns (ListModelsResponse);\n",
            "",
            'present RPC "ListModels" on service "EmbedService" was deleted',
            id="rpc removed",
        ),
        pytest.param(
            "embed",
            "returns (ListModelsResponse)",
            "returns (stream ListModelsResponse)",
            'RPC "ListModels" on service "EmbedService" changed from server unary to server stream',
            id="rpc made a stream",
        ),
        pytest.param(
            "embed",
            "ENCODING_INT8 = 3;",
            "ENCODING_INT8 = 4;",
            'present enum value "3" on enum "Encoding" was deleted',
            id="enum value renumbered",
        ),
        pytest.param(
            "embed",
            "ENCODING_INT8 = 3;",
            "ENCODING_BINARY = 3;",
            'Enum value "3" on enum "Encoding" changed name from "ENCODING_INT8"',
            id="enum value renamed",
        ),
        pytest.param(
            "verifier",
            "package embercache.v1;",
            "package embercache.v2;",
            'package changed from "embercache.v1" to "embercache.v2"',
            id="package renamed",
        ),
    ],
)
def test_a_change_that_breaks_clients_is_refused_with_what_it_breaks(
    edit: Edit, compare: Compare, name: str, old: str, new: str, message: str
) -> None:
    edit(name, old, new)
    ended = compare()
    assert ended.returncode == 100
    assert message in ended.stdout
    assert f"proto/embercache/v1/{name}.proto" in ended.stdout


def test_a_file_that_is_removed_is_named(contract: Path, compare: Compare) -> None:
    (contract / "proto" / "embercache" / "v1" / "verifier.proto").unlink()
    ended = compare()
    assert ended.returncode == 100
    assert 'file "embercache/v1/verifier.proto" was deleted' in ended.stdout


def test_what_is_added_passes(contract: Path, edit: Edit, compare: Compare) -> None:
    edit(
        "embed", "  Truncation truncation = 7;\n", "  Truncation truncation = 7;\n  bool new = 9;\n"
    )
    edit("embed", "    Tensor tensor = 3;\n", "    Tensor tensor = 3;\n    bytes image = 4;\n")
    edit("embed", "ENCODING_INT8 = 3;", "ENCODING_INT8 = 3;\n  ENCODING_BINARY = 4;")
    edit(
        "embed",
        "  rpc ListModels(ListModelsRequest) returns (ListModelsResponse);\n",
        "  rpc ListModels(ListModelsRequest) returns (ListModelsResponse);\n"
        "  // Added.\n  rpc New(NewRequest) returns (NewResponse);\n",
    )
    edit(
        "embed",
        "message ListModelsRequest {}\n",
        "message ListModelsRequest {}\nmessage NewRequest {}\nmessage NewResponse {}\n",
    )
    (contract / "proto" / "embercache" / "v1" / "more.proto").write_text(
        'syntax = "proto3";\npackage embercache.v1;\nmessage More { string text = 1; }\n', "utf-8"
    )
    ended = compare()
    assert (ended.returncode, ended.stdout) == (0, "")


def test_comments_may_change(edit: Edit, compare: Compare) -> None:
    edit("embed", "// No prefix.", "// Nothing is put in front.")
    assert compare().returncode == 0
