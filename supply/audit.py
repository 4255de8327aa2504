"""Asks whether anything that is locked has a known vulnerability: ``python -m supply.audit``.

Exits with 0 if nothing has, with 1 if something has, and with 2 if that could not be asked of all:
no answer is not a good answer. Python packages are asked for by pip-audit, those of Node by npm,
crates here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supply.locks import read_cargo_lock, read_lock

if TYPE_CHECKING:
    from supply.locks import Locked

ROOT = Path(__file__).parents[1]
LOCKS = (
    ROOT / "requirements.lock",
    *(ROOT / "docker" / f"requirements-{kind}.lock" for kind in ("cpu", "cuda", "build")),
)
CARGO_LOCKS = (ROOT / "native" / "Cargo.lock", ROOT / "clients" / "rust" / "Cargo.lock")
NODE = ROOT / "clients" / "node"
OSV_URL = "https://api.osv.dev/v1/query"
_SECONDS = 15
_AT_ONCE = 8


@dataclass(slots=True)
class Report:
    """``vulnerable`` has lines to print, ``unasked`` why something could not be asked."""

    asked: int = 0
    vulnerable: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)


def audit_python(lock: Path, options: list[str]) -> Report:
    """Asks for all packages of a lock; ``options`` are pip-audit's."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    # The lock is complete, so that nothing has to be resolved.
    command += ["--disable-pip", "--no-deps", "--timeout", str(_SECONDS), *options]
    done = subprocess.run(  # noqa: S603 - no shell, and arguments of ours
        [*command, "--requirement", str(lock)], capture_output=True, text=True, check=False
    )
    try:
        answers = {each["name"]: each for each in json.loads(done.stdout)["dependencies"]}
    except (ValueError, KeyError, TypeError):
        return Report(unasked=[f"{lock.name}: {_last_line(done.stderr)}"])
    report = Report()
    # pip-audit itself is content if it was told of nothing.
    for package in read_lock(lock):
        answer = answers.get(_normal(package.name), {"skip_reason": "no answer"})
        if "skip_reason" in answer:
            report.unasked.append(f"{lock.name}: {package.name}: {answer['skip_reason']}")
            continue
        report.asked += 1
        for found in answer["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            report.vulnerable.append(
                f"{lock.name}: {package.name} {package.version}: {found['id']}, fixed in {fixed}"
            )
    return report


def audit_crates(lock: Path, osv_url: str) -> Report:
    """Asks a service like OSV's for all crates of a lock."""
    name = f"{lock.parent.name}/{lock.name}"
    crates = read_cargo_lock(lock)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda crate: _ask_osv(osv_url, crate), crates))
    except (OSError, ValueError) as error:
        return Report(unasked=[f"{name}: {error}"])
    return Report(
        asked=len(crates),
        vulnerable=[
            f"{name}: {crate.name} {crate.version}: {found['id']}, fixed in {_fixed(found)}"
            for crate, answer in zip(crates, answers, strict=True)
            for found in answer
            if "withdrawn" not in found
        ],
    )


def _ask_osv(url: str, crate: Locked) -> list[dict[str, Any]]:
    package = {"name": crate.name, "ecosystem": "crates.io"}
    query = json.dumps({"package": package, "version": crate.version}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, query, headers)  # noqa: S310 - the user's own address
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.load(answer).get("vulns", [])
        return found


def _fixed(advisory: dict[str, Any]) -> str:
    versions = {
        event["fixed"]
        for affected in advisory.get("affected", [])
        for each in affected.get("ranges", [])
        if each["type"] == "SEMVER"
        for event in each["events"]
        if "fixed" in event
    }
    return ", ".join(sorted(versions)) or "no version yet"


def audit_node(folder: Path) -> Report:
    """Asks for all packages in the lock of a folder."""
    try:
        done = subprocess.run(
            ["npm", "audit", "--package-lock-only", "--json"],  # noqa: S607 - the user's npm
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        found = answer["vulnerabilities"]
    except OSError:
        return Report(unasked=["clients/node: npm is not installed"])
    except (ValueError, KeyError):
        return Report(unasked=[f"clients/node: {_last_line(done.stderr)}"])
    return Report(
        asked=answer["metadata"]["dependencies"]["total"],
        vulnerable=[f"clients/node: {name}: {each['severity']}" for name, each in found.items()],
    )


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "complete log" not in line]
    return lines[-1][:300] if lines else "no answer"


def main(arguments: list[str] | None = None) -> int:
    """Asks, and prints what is known."""
    parser = argparse.ArgumentParser(description="Asks for known vulnerabilities of dependencies.")
    parser.add_argument(
        "locks", nargs="*", type=Path, help="locks of Python packages or of crates; all if none"
    )
    parser.add_argument(
        "--service", choices=["pypi", "osv"], default="osv", help="who is asked for Python packages"
    )
    parser.add_argument("--osv-url", default=OSV_URL, help="address of a service like OSV's")
    chosen = parser.parse_args(arguments)
    options = ["--vulnerability-service", chosen.service, "--osv-url", chosen.osv_url]
    reports = [
        audit_crates(lock, chosen.osv_url)
        if lock.name == "Cargo.lock"
        else audit_python(lock, options)
        for lock in chosen.locks or (*LOCKS, *CARGO_LOCKS)
    ]
    if not chosen.locks:
        reports.append(audit_node(NODE))
    vulnerable = [line for report in reports for line in report.vulnerable]
    unasked = [line for report in reports for line in report.unasked]
    for line in vulnerable:
        print(f"VULNERABLE {line}")
    for line in unasked:
        print(f"NOT ASKED  {line}")
    print(
        f"{sum(report.asked for report in reports)} entries of locks asked for,"
        f" {len(vulnerable)} vulnerable, {len(unasked)} not asked for"
    )
    if unasked:
        print("This says nothing of those that were not asked for: is the service reached?")
    return 1 if vulnerable else 2 if unasked else 0


if __name__ == "__main__":
    sys.exit(main())
