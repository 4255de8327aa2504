"""An audit that could not ask is no good news."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from supply import audit
from supply.audit import audit_crates, audit_node, audit_python, main
from supply.locks import read_cargo_lock, read_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HASH = f"--hash=sha256:{'0' * 64}"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    good = f"good==1.0 \\\n    {HASH} \\\n    {HASH}\n"
    bad = f"Bad.Name==2.0 ; python_version > '3' \\\n    {HASH}\n"
    path.write_text(good + bad)
    return path


class Advisories:
    """A service like OSV's; ``known`` has the advisories of packages by their names."""

    def __init__(self) -> None:
        self.known: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = query["package"]["name"]
                service.asked.append(name)
                body = json.dumps({"vulns": service.known.get(name, [])}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/query"
        threading.Thread(target=self.server.serve_forever, args=(0.02,)).start()


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    service = Advisories()
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_without_known_vulnerabilities_it_passes(
    lock: Path, advisories: Advisories, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(lock), "--osv-url", advisories.url]) == 0
    assert sorted(advisories.asked) == ["bad-name", "good"]
    assert "2 entries of locks asked for, 0 vulnerable, 0 not asked" in capsys.readouterr().out


@pytest.mark.threat("A dependency is swapped or known to be vulnerable")
def test_a_vulnerable_package_is_named_with_the_version_that_is_not(
    lock: Path, advisories: Advisories, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{"introduced": "0"}, {"fixed": "2.1"}]
    affected = [
        {
            "package": {"name": "bad-name", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": events}],
        }
    ]
    advisory = {"id": "PYSEC-1", "summary": "bad", "aliases": [], "affected": affected}
    advisories.known["bad-name"] = [advisory]
    assert main([str(lock), "--osv-url", advisories.url]) == 1
    assert "VULNERABLE requirements.lock: Bad.Name 2.0: PYSEC-1, fixed in 2.1" in (
        capsys.readouterr().out
    )


def test_a_service_that_is_not_reached_is_not_a_pass(
    lock: Path, advisories: Advisories, capsys: pytest.CaptureFixture[str]
) -> None:
    advisories.server.shutdown()
    advisories.server.server_close()
    assert main([str(lock), "--osv-url", advisories.url]) == 2
    assert "NOT ASKED  requirements.lock: " in capsys.readouterr().out


def test_a_package_that_the_service_does_not_know_is_not_a_pass(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit leaves it out, says that nothing was found, and ends with 0."""
    answer = {"dependencies": [{"name": "bad-name", "skip_reason": "not found on PyPI"}]}
    (tmp_path / "pip_audit.py").write_text(f"print({json.dumps(answer)!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = audit_python(lock, [])
    assert (report.asked, report.vulnerable) == (0, [])
    assert report.unasked == [
        "requirements.lock: good: no answer",
        "requirements.lock: Bad.Name: not found on PyPI",
    ]


@pytest.fixture
def cargo_lock(tmp_path: Path) -> Path:
    registry = f'source = "registry+https://example.org"\nchecksum = "{"0" * 64}"\n'
    ours = '[[package]]\nname = "ours"\nversion = "0.1.0"\n'
    theirs = [
        f'[[package]]\nname = "{name}"\nversion = "1.0.0"\n{registry}' for name in ("bad", "good")
    ]
    path = tmp_path / "Cargo.lock"
    path.write_text("\n".join([ours, *theirs]))
    return path


def test_crates_are_asked_for_but_our_own(
    cargo_lock: Path, advisories: Advisories, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(cargo_lock), "--osv-url", advisories.url]) == 0
    assert sorted(advisories.asked) == ["bad", "good"]
    assert "2 entries of locks asked for, 0 vulnerable, 0 not asked" in capsys.readouterr().out


@pytest.mark.threat("A dependency is swapped or known to be vulnerable")
def test_a_vulnerable_crate_is_named_unless_the_advisory_was_withdrawn(
    cargo_lock: Path, advisories: Advisories
) -> None:
    events = [{"introduced": "0.0.0-0"}, {"fixed": "1.0.1"}]
    affected = [{"ranges": [{"type": "SEMVER", "events": events}]}]
    withdrawn = {"id": "RUSTSEC-1", "withdrawn": "2026-01-01T00:00:00Z"}
    found = [{"id": "RUSTSEC-2", "affected": affected}, {"id": "RUSTSEC-3"}, withdrawn]
    advisories.known["bad"] = found
    name = f"{cargo_lock.parent.name}/Cargo.lock"
    assert audit_crates(cargo_lock, advisories.url).vulnerable == [
        f"{name}: bad 1.0.0: RUSTSEC-2, fixed in 1.0.1",
        f"{name}: bad 1.0.0: RUSTSEC-3, fixed in no version yet",
    ]


def test_crates_that_could_not_be_asked_for_are_not_a_pass(
    cargo_lock: Path, advisories: Advisories
) -> None:
    advisories.server.shutdown()
    advisories.server.server_close()
    report = audit_crates(cargo_lock, advisories.url)
    assert report.asked == 0
    (line,) = report.unasked
    assert "Cargo.lock: " in line


@pytest.mark.threat("A dependency is swapped or known to be vulnerable")
def test_a_crate_without_a_checksum_is_refused(cargo_lock: Path) -> None:
    loose = '[[package]]\nname = "loose"\nversion = "1.0.0"\nsource = "git+https://example.org"\n'
    cargo_lock.write_text(loose)
    with pytest.raises(ValueError, match="loose has no checksum"):
        read_cargo_lock(cargo_lock)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for npm: says what is written into the file that is returned."""
    (tmp_path / "npm").write_text(f"#!/bin/sh\ncat {tmp_path}/said\necho 'npm error audit' >&2\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "said"


def test_packages_of_node_are_asked_for_by_npm(npm: Path, tmp_path: Path) -> None:
    found = {"left-pad": {"severity": "high"}}
    said = {"vulnerabilities": found, "metadata": {"dependencies": {"total": 7}}}
    npm.write_text(json.dumps(said))
    report = audit_node(tmp_path)
    assert (report.asked, report.vulnerable) == (7, ["clients/node: left-pad: high"])


@pytest.mark.parametrize("said", ["", '{"statusCode": 405}'])
def test_an_npm_that_could_not_ask_is_not_a_pass(npm: Path, tmp_path: Path, said: str) -> None:
    npm.write_text(said)
    assert audit_node(tmp_path).unasked == ["clients/node: npm error audit"]


def test_a_missing_npm_is_not_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert audit_node(tmp_path).unasked == ["clients/node: npm is not installed"]


def test_all_locks_of_the_project_are_asked_for() -> None:
    root = audit.ROOT
    assert set(audit.LOCKS) == {*root.glob("*.lock"), *root.glob("docker/*.lock")}
    assert all(len(read_lock(path)) > 5 for path in audit.LOCKS)
    assert set(audit.CARGO_LOCKS) == {
        *root.glob("*/Cargo.lock"),
        *root.glob("clients/*/Cargo.lock"),
    }
    assert all(len(read_cargo_lock(path)) > 5 for path in audit.CARGO_LOCKS)


@pytest.mark.threat("A dependency is swapped or known to be vulnerable")
def test_a_package_without_a_hash_is_refused(lock: Path) -> None:
    lock.write_text("good==1.0\n")
    with pytest.raises(ValueError, match="good has no hash"):
        read_lock(lock)
