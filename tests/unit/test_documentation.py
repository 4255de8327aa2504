"""Whatever the documentation shows is run by a test, which is named here; output is not."""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "clients").glob("*/README.md"),
]
# The tests that run the blocks in a language, by page; the first row that matches counts.
COMMANDS = "tests/e2e/test_docs.py"
GUIDES = "tests/migrating/test_guides.py"
STARTS = "tests/integration/cli/test_documented_starts.py"
PYTHON_CLIENT = "tests/integration/cli/test_client_guide.py"
SETTINGS = "tests/integration/tls/test_documented_settings.py"
CLIENTS = "tests/clients/test_docs.py"
PACKAGES = "tests/clients/test_packages.py"
TESTS = {
    "sh": {
        "docs/kubernetes.md": ["tests/cluster/test_docs.py"],
        "README.md": [COMMANDS],
        "docs/*.md": [COMMANDS],
        "clients/*/README.md": [PACKAGES],
    },
    "python": {
        "README.md": [COMMANDS],
        "docs/invalidation.md": ["tests/integration/services/test_documented_events.py"],
        "docs/migrating.md": [GUIDES],
        "docs/openai.md": [
            "tests/integration/transport/test_openai_clients.py",
            "tests/migrating/test_openai_frameworks.py",
        ],
        "docs/python-client.md": [PYTHON_CLIENT, "tests/integration/tls/test_python_client.py"],
        "clients/python/README.md": [PYTHON_CLIENT],
    },
    "yaml": {
        "docs/kubernetes.md": ["tests/cluster/chart/test_documented_values.py"],
        "docs/migrating.md": [GUIDES],
        "docs/overload.md": [SETTINGS],
        "docs/security.md": [SETTINGS],
    },
    "go": {"docs/clients.md": [CLIENTS], "clients/go/README.md": [CLIENTS]},
    "java": {"docs/clients.md": [CLIENTS], "clients/java/README.md": [CLIENTS]},
    "rust": {"docs/clients.md": [CLIENTS], "clients/rust/README.md": [CLIENTS]},
    "ts": {"docs/clients.md": [CLIENTS], "clients/node/README.md": [CLIENTS]},
    "toml": {"clients/rust/README.md": [PACKAGES]},
    "xml": {"clients/java/README.md": [PACKAGES]},
    # Commands that are not in the block of a language, as they need what is not on every machine.
    "indented": {
        "README.md": [STARTS],
        "docs/invalidation.md": ["tests/integration/services/test_documented_events.py"],
        # Those of Docker, whose steps are followed without it.
        "docs/kubernetes.md": ["tests/cluster/image/test_dockerfile.py"],
        "docs/migrating.md": [STARTS, GUIDES],
        "docs/native.md": [STARTS],
        "docs/openai.md": [STARTS],
    },
}
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)\n(?:.*\n)*?\1\2$", re.MULTILINE)
INDENTED = re.compile(
    r"^    (?:[A-Z_]+=\S* )*(?:curl|docker|embercache|ghz|grpcurl|helm|kubectl|litellm|make"
    r"|openssl|pip|python|redis-cli|XADD) ",
    re.MULTILINE,
)
# Output; and what the site is made of, which make docs runs.
SHOWN_ONLY = {"text", "toctree", "include", "eval-rst"}


def row_of(page: str, language: str) -> str:
    """The row of the table for the blocks of a page; empty if there is none."""
    return next((name for name in TESTS.get(language, {}) if fnmatch(page, name)), "")


@pytest.fixture(scope="module")
def shown() -> dict[tuple[str, str], int]:
    """How many blocks each page has in each language."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for page in PAGES:
        name, text = str(page.relative_to(ROOT)), page.read_text("utf-8")
        for indent, _, info in FENCE.findall(text):
            language = info.strip("{").split("}")[0].split(" ")[0]
            # The tests look at the beginning of lines only.
            counts[name, indent + language] += 1
        counts[name, "indented"] += len(INDENTED.findall(FENCE.sub("", text)))
    return {
        (name, language): count
        for (name, language), count in counts.items()
        if count and language not in SHOWN_ONLY
    }


def test_a_test_runs_every_block_of_every_page(shown: dict[tuple[str, str], int]) -> None:
    missing = [where for where in shown if not row_of(*where)]
    assert not missing, f"name the test that runs these, in {Path(__file__).name}: {missing}"


def test_every_row_of_the_table_is_of_a_page_and_of_tests_that_are_there(
    shown: dict[tuple[str, str], int],
) -> None:
    used = {(language, row_of(page, language)) for page, language in shown}
    assert used == {(language, page) for language, rows in TESTS.items() for page in rows}
    for rows in TESTS.values():
        for tests in rows.values():
            assert all((ROOT / test).is_file() for test in tests), tests
