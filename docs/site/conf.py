"""How the documentation becomes a site: make docs."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Embercache"
release = importlib.metadata.version("embercache")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = f"Embercache {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
# Nothing is fetched from elsewhere when the site is read.
html_theme_options = {"footer_icons": []}
myst_heading_anchors = 4
myst_links_external_new_tab = False
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {}

# Pages of the repository that the site has under other names.
_ELSEWHERE = {
    "../SECURITY.md": "site/threats.md",
    "docs/security.md": "../security.md",
    "docs/overload.md": "../overload.md",
    "docs/supply-chain.md": "../supply-chain.md",
    "../../README.md": "../index.md",
    "examples)": "../clients.md)",
    "../clients/go/README.md": "site/client-go.md",
    "../clients/java/README.md": "site/client-java.md",
    "../clients/node/README.md": "site/client-node.md",
    "../clients/rust/README.md": "site/client-rust.md",
    "../bench/ghz/README.md": "site/ghz.md",
}


def _links(_: Sphinx, __: str, source: list[str]) -> None:
    for file, page in _ELSEWHERE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def setup(app: Sphinx) -> None:
    """See `sphinx.application.Sphinx.setup_extension`."""
    app.connect("source-read", _links)
    app.connect("include-read", lambda app, _, name, source: _links(app, str(name), source))
