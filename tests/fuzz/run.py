"""Fuzzes every target for a while: ``python tests/fuzz/run.py --seconds 30 [TARGET ...]``.

Each target runs in a process of its own under libFuzzer (by Atheris), which is led by the branches
of our own modules that inputs reach. It begins with what is in ``corpus``. Exits with 1 if a target
raised what it must not, took too much time or memory for an input, or grew with their number; the
input is then in ``build/fuzz``.

``--keep`` puts into ``corpus`` the smallest inputs that together reach all that is reached.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine import CORPUS, NAMES, Target, mutate_json
from keep import keep

WORK = Path("build/fuzz")
_RSS_MEGABYTES = 1024
# From the first inputs to the last; what is cached and what libFuzzer keeps take less.
_GROWTH_MEGABYTES = 256
# What is in no Python code, and so cannot be stopped by our own clock, is stopped by libFuzzer's.
_WALL_SECONDS = 60
_ADDRESS_BYTES = 12 << 30


@dataclass(frozen=True)
class Outcome:
    """What came of one target; ``problem`` is empty if it is sound."""

    executions: int
    coverage: int
    inputs: int
    peak_megabytes: int
    problem: str


def fuzz(name: str, seconds: int, seed: int) -> Outcome:
    """Runs one target in a process of its own."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "new").mkdir(parents=True)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as output:
        options = [f"--child={name}", f"--seconds={seconds}", f"--seed={seed}"]
        done = subprocess.run(
            [sys.executable, __file__, *options],
            env=os.environ | {"RUST_BACKTRACE": "0"},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(errors="replace")
    problem = "" if done.returncode == 0 else _problem(text, folder)
    executions = _last(r"stat::number_of_executed_units: (\d+)|^#(\d+)\s", text)
    if not problem and not executions:
        problem = f"no input was run ({log})"
    sizes = [int(size) for size in re.findall(r" rss: (\d+)Mb", text)]
    if not problem and sizes and sizes[-1] - sizes[0] > _GROWTH_MEGABYTES:
        problem = f"it grew from {sizes[0]} to {sizes[-1]} MiB ({log})"
    return Outcome(
        executions=executions,
        coverage=_last(r" cov: (\d+)", text),
        inputs=_last(r" corp: (\d+)", text),
        peak_megabytes=_last(r"stat::peak_rss_mb: *(\d+)| rss: (\d+)Mb", text),
        problem=problem,
    )


def fuzz_here(name: str, seconds: int, seed: int) -> None:
    """Runs one target in this process, which then ends."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    with atheris.instrument_imports(include=["sidecar"]):
        target = Target(name)
    folder = WORK / name
    seeds = folder / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(data)
        target.run(data)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.tokens))

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate_json(data, atheris.Mutate, max_size, seed)

    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={_WALL_SECONDS}",
        f"-rss_limit_mb={_RSS_MEGABYTES}",
        f"-max_len={target.max_bytes}",
        *([f"-dict={words}"] if target.tokens else []),
        f"-artifact_prefix={folder}/found-",
        "-print_final_stats=1",
        str(folder / "new"),
        str(CORPUS / name),
        str(seeds),
    ]
    atheris.Setup(
        arguments,
        lambda data: target.run(data) and None,
        **({"custom_mutator": mutator} if target.is_json else {}),
    )
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in word.encode()
    )


def _last(pattern: str, text: str) -> int:
    found = [
        next(filter(None, match.groups())) for match in re.finditer(pattern, text, re.MULTILINE)
    ]
    return int(found[-1]) if found else 0


def _problem(text: str, folder: Path) -> str:
    raised = re.search(
        r"Uncaught Python exception: ===\n(.*)|ERROR: libFuzzer: (.*)|^(\w+(?:\.\w+)*Error: .*)$",
        text,
        re.MULTILINE,
    )
    reason = next(filter(None, raised.groups())) if raised else "it ended"
    inputs = [str(path) for path in folder.glob("found-*")]
    return f"{reason[:200]} ({', '.join(inputs) or folder / 'log'})"


def main() -> int:
    """Fuzzes, and prints what came of it."""
    parser = argparse.ArgumentParser(description="Fuzzes what reads bytes of others.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=1, help="of chance; 0 for another each time")
    parser.add_argument("--keep", action="store_true", help="renew the corpus")
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        fuzz_here(chosen.child, chosen.seconds, chosen.seed)
    if unknown := set(chosen.targets) - set(NAMES):
        parser.error(f"no target {min(unknown)}; there are {', '.join(NAMES)}")
    print(f"{'target':<20}{'executions':>12}{'branches':>10}{'inputs':>8}{'peak MiB':>10}  outcome")
    failed = False
    for name in chosen.targets or NAMES:
        print(f"{name:<20}", end="", flush=True)
        outcome = fuzz(name, chosen.seconds, chosen.seed)
        failed |= bool(outcome.problem)
        print(
            f"{outcome.executions:>12,}{outcome.coverage:>10,}{outcome.inputs:>8,}"
            f"{outcome.peak_megabytes:>10,}  {outcome.problem or 'sound'}",
            flush=True,
        )
        if chosen.keep:
            keep(name, WORK / name / "new")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
