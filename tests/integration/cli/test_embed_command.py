"""`embercache embed` against a real sidecar with the real minilm."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from embercache import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Run = Callable[..., Result]


def rows(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def tiers(result: Result) -> list[str]:
    return [row.get("tier", "failed") for row in rows(result)]


def vectors(address: str, texts: list[str]) -> Any:
    with Client(address) as client:
        return client.embed(texts).vectors


def test_arguments_become_json_lines(embed: Run, address: str) -> None:
    result = embed("one text", "another")
    assert result.exit_code == 0
    assert [row["index"] for row in rows(result)] == [0, 1]
    written = np.array([row["vector"] for row in rows(result)], np.float32)
    np.testing.assert_allclose(written, vectors(address, ["one text", "another"]), atol=1e-6)


def test_the_summary_counts_by_tier(embed: Run) -> None:
    first = embed("one", "two", "one")
    assert re.search(r"3 inputs in .* s \(.*/s\): 2 computed, 1 coalesced$", first.stderr.strip())
    second = embed("one", "two", "three")
    assert second.stderr.strip().endswith(": 2 hot, 1 computed")


def test_the_summary_says_how_many_texts_were_cut_short(embed: Run) -> None:
    result = embed("word " * 1000, "short")
    assert "1 cut short, being longer than the model reads" in result.stderr
    assert [row["truncated"] for row in rows(result)] == [True, False]


def test_lines_are_piped_in(embed: Run) -> None:
    by_pipe = embed(input=b"one\ntwo\n")
    by_name = embed("--file", "-", input=b"one\ntwo\n")
    assert tiers(by_pipe) == ["computed"] * 2
    assert tiers(by_name) == ["hot"] * 2
    assert [r["vector"] for r in rows(by_pipe)] == [r["vector"] for r in rows(by_name)]


def test_npy_rows_are_the_lines_of_the_file(embed: Run, address: str, tmp_path: Path) -> None:
    texts = [f"text number {number % 150}" for number in range(300)]
    file, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    file.write_text("\n".join(texts) + "\n")
    result = embed("--file", str(file), "--out", str(out))
    assert result.exit_code == 0
    assert result.stdout == ""
    array = np.load(out)
    assert (array.shape, array.dtype) == ((300, 384), np.float32)
    np.testing.assert_allclose(array, vectors(address, texts), atol=1e-6)
    np.testing.assert_array_equal(array[:150], array[150:])


def test_both_formats_hold_the_same_vectors(embed: Run, tmp_path: Path) -> None:
    npy, jsonl = tmp_path / "vectors.npy", tmp_path / "vectors.jsonl"
    embed("--out", str(npy), input=b"one\ntwo\n")
    embed("--out", str(jsonl), input=b"one\ntwo\n")
    read = [json.loads(line)["vector"] for line in jsonl.read_text().splitlines()]
    np.testing.assert_array_equal(np.array(read, np.float32), np.load(npy))


def test_no_lines_make_an_empty_array(embed: Run, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    result = embed("--out", str(out), input=b"")
    assert result.exit_code == 0
    assert np.load(out).shape == (0, 384)
    assert result.stderr.startswith("0 inputs")


def test_a_file_of_json_lines_is_known_by_its_name(embed: Run, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text('{"text": "one", "id": "a", "chunk_id": "1"}\n{"text": "two"}\n')
    first, second = rows(embed("--file", str(file)))
    assert (first["id"], first["chunk_id"]) == ("a", "1")
    assert "id" not in second


def test_json_lines_can_be_piped_in(embed: Run) -> None:
    assert tiers(embed("--jsonl", input=b'{"text": "one"}\n')) == ["computed"]
    assert tiers(embed("one")) == ["hot"]


def test_an_entity_is_computed_again_only_when_its_text_changes(embed: Run) -> None:
    first = b'{"text": "one", "id": 1}\n'
    assert tiers(embed("--jsonl", input=first)) == ["computed"]
    assert tiers(embed("--jsonl", input=first)) == ["hot"]
    assert tiers(embed("--jsonl", input=b'{"text": "two", "id": 1}\n')) == ["computed"]


def test_bad_lines_are_named_and_all_others_written(embed: Run, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    result = embed("--out", str(out), input=b"one\nt\xffo\nthree\n\xfe\n")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        "line 2: not UTF-8 (byte 2 of the line)",
        "line 4: not UTF-8 (byte 1 of the line)",
    ]
    assert result.stderr.splitlines()[2].endswith(": 2 computed, 2 failed")
    assert np.isnan(np.load(out)).all(axis=1).tolist() == [False, True, False, True]


def test_lines_that_the_sidecar_refuses_are_named_too(embed: Run) -> None:
    refused = b"x" * (2**20 + 1)
    result = embed(input=b"\xff\none\n" + refused + b"\ntwo\n")
    assert result.exit_code == 1
    assert tiers(result) == ["failed", "computed", "failed", "computed"]
    assert "line 3: the text is longer than 1048576 bytes" in result.stderr


def test_many_bad_lines_among_good_ones_stay_in_their_places(embed: Run) -> None:
    lines = [b"\xff" if number % 3 else b"text %d" % (number % 7) for number in range(700)]
    written = rows(embed(input=b"\n".join(lines)))
    assert [row["index"] for row in written] == list(range(700))
    assert ["error" in row for row in written] == [line == b"\xff" for line in lines]


def test_modes_reach_the_sidecar(embed: Run) -> None:
    assert tiers(embed("--mode", "no-store", "a")) == ["computed"]
    missing = embed("--mode", "only-if-cached", "a")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("text 1: not in any tier of the cache")
    assert tiers(embed("a")) == ["computed"]
    assert tiers(embed("--mode", "only-if-cached", "a")) == ["hot"]
    assert tiers(embed("--mode", "refresh", "a")) == ["computed"]


def test_a_ttl_that_cannot_be_is_refused_before_anything_is_written(
    embed: Run, tmp_path: Path
) -> None:
    result = embed("--ttl", "0s", "--out", str(tmp_path / "out.npy"), "a")
    assert result.exit_code == 1
    assert "ttl" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_the_sidecar_refuses_ends_the_command(run: Run, tmp_path: Path) -> None:
    result = run("embed", "--namespace", "no blanks", "--out", str(tmp_path / "out.npy"), "a")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: a namespace has 1 to 64 letters")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_answered_with_those_that_are(embed: Run) -> None:
    result = embed("--model", "maxilm", "a")
    assert result.exit_code == 1
    assert result.stderr == "Error: the sidecar has no model 'maxilm'; it has: minilm, minilm-v2\n"


def test_dev_needs_no_sidecar_and_leaves_none(minilm_folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "EMBERCACHE_MODEL_FOLDER": str(minilm_folder.parent),
        "EMBERCACHE_ADDRESS": "127.0.0.1:1",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "sidecar", "embed", "--dev", "one", "one"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1]
    assert done.stderr.strip().endswith(": 1 computed, 1 coalesced")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.glob("embercache-*")) == []


def test_dev_leaves_alone_what_a_sidecar_beside_it_may_hold(
    minilm_folder: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = os.environ | {
            "EMBERCACHE_MODEL_FOLDER": str(minilm_folder.parent),
            "EMBERCACHE_SERVER_ADDRESS": port,
            "EMBERCACHE_SERVER_METRICS_ADDRESS": port,
            "EMBERCACHE_SERVER_OPENAI_ADDRESS": port,
            "EMBERCACHE_GENERATOR_PACKS": "nobody",
            "EMBERCACHE_DISK_FOLDER": str(tmp_path / "disk"),
        }
        command = [sys.executable, "-m", "sidecar", "embed", "--dev", "one"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "disk").exists()


def test_dev_without_a_pack_says_how_to_get_it(tmp_path: Path) -> None:
    environment = os.environ | {"EMBERCACHE_MODEL_FOLDER": str(tmp_path / "none")}
    command = [sys.executable, "-m", "sidecar", "embed", "--dev", "one"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "run `embercache models pull minilm`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(address: str) -> None:
    environment = os.environ | {"EMBERCACHE_ADDRESS": address}
    script = f"yes text | head -n 5000 | {sys.executable} -m sidecar embed | head -c 10"
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == '{"index": '
    assert "Traceback" not in done.stderr
