"""What the documentation shows runs, and what it lists is all there is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embercache
from embercache import (
    AsyncClient,
    Client,
    CredentialFiles,
    EmbedOptions,
    EmbercacheError,
    GenerateOptions,
    InvalidateTarget,
    RerankOptions,
    SearchOptions,
)

PACKAGE = Path(__file__).parents[1]
GUIDE = PACKAGE.parents[1] / "docs" / "python-client.md"


def blocks(page):
    """The Python code of a page, its lines numbered as in the page."""
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(1))
        yield compile("\n" * line + match[1], str(page), "exec")


@pytest.mark.parametrize("page", [PACKAGE / "README.md", GUIDE], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, sidecar, monkeypatch, tmp_path):
    monkeypatch.setenv("EMBERCACHE_ADDRESS", sidecar.address)
    monkeypatch.chdir(tmp_path)
    for name in ("token", "ca.crt"):  # which the guide shows to a sidecar that is not called
        (tmp_path / name).write_text("a-token")
    sidecar.found.results.add(id="manual", content="An ember is glowing coal.")
    sidecar.found.semantic.query = "what glows?"
    names = {}
    try:
        for block in blocks(page):
            exec(block, names)  # noqa: S102 - our own pages
    finally:
        for client in names.values():
            if isinstance(client, Client):
                client.close()
    assert sidecar.requests


def test_the_quickstart_prints_the_documents_by_similarity(sidecar):
    done = run_quickstart(sidecar.address)
    assert done.returncode == 0, done.stderr
    first, *documents = done.stdout.splitlines()
    assert first == "model fake, version version-1"
    assert len(documents) == 3
    similarities = [float(line.split()[0]) for line in documents]
    assert similarities == sorted(similarities, reverse=True)


def test_the_quickstart_says_what_is_wrong_without_a_traceback(tmp_path):
    done = run_quickstart(f"unix:{tmp_path}/nobody")
    assert done.returncode == 1
    assert "the sidecar did not answer" in done.stderr
    assert "Traceback" not in done.stderr


def run_quickstart(address):
    return subprocess.run(
        [sys.executable, "-W", "error", PACKAGE / "examples" / "quickstart.py"],
        env=os.environ | {"EMBERCACHE_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", [name for name in vars(Client) if not name.startswith("_")])
def test_every_argument_of_every_call_is_in_the_guide(name):
    options = {
        "embed": EmbedOptions,
        "search": SearchOptions,
        "rerank": RerankOptions,
        "generate": GenerateOptions,
        "generate_stream": GenerateOptions,
        "invalidate": InvalidateTarget,
    }
    keywords = {
        each.name
        for each in inspect.signature(getattr(Client, name)).parameters.values()
        if each.kind is each.KEYWORD_ONLY
    }
    if name in options:
        keywords |= set(options[name].__annotations__)
    guide = GUIDE.read_text()
    assert name in guide
    for keyword in keywords:
        assert re.search(rf"`{keyword}[`=]|\b{keyword}=", guide), keyword


def test_every_error_is_in_the_guide_with_its_code():
    rows = dict(re.findall(r"^\| `(\w+Error)`.*? \| (.*?) \|", GUIDE.read_text(), re.MULTILINE))
    errors = [
        each
        for name in embercache.__all__
        if isinstance(each := getattr(embercache, name), type) and issubclass(each, EmbercacheError)
    ]
    assert set(rows) == {each.__name__ for each in errors} - {"EmbercacheError"}
    for each in errors:
        if "default_code" in vars(each) and each is not EmbercacheError:
            assert f"`{each.default_code}`" in rows[each.__name__]


@pytest.mark.parametrize("name", [name for name in vars(Client) if not name.startswith("_")])
def test_both_clients_have_the_same_methods_with_the_same_arguments(name):
    blocking = inspect.signature(getattr(Client, name)).parameters
    asynchronous = inspect.signature(getattr(AsyncClient, name)).parameters
    assert list(blocking) == list(asynchronous)
    for parameter in set(blocking) - {"inputs"}:  # which may be asynchronous there
        assert blocking[parameter] == asynchronous[parameter]


def test_both_clients_have_no_other_methods():
    assert {name for name in vars(AsyncClient) if not name.startswith("_")} == {
        name for name in vars(Client) if not name.startswith("_")
    }


@pytest.mark.parametrize("file", CredentialFiles.__annotations__)
def test_every_file_of_a_client_is_in_the_guide_with_its_variable(file):
    (row,) = [line for line in GUIDE.read_text().splitlines() if re.match(rf"\| .*`{file}`", line)]
    assert f"`EMBERCACHE_{file.upper()}`" in row
