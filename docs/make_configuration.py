"""Writes docs/configuration.md from the declarations of the settings.

python docs/make_configuration.py
"""

from __future__ import annotations

from pathlib import Path

from sidecar.config import Settings
from sidecar.config_sources import Setting, all_settings
from sidecar.config_values import is_secret, plain
from sidecar.models.packs import default_folder

FILE = Path(__file__).parent / "configuration.md"

_HEAD = """\
# Configuration

Every setting can be given in three ways. A flag wins over the environment, which wins over the
file, which wins over the default. Here is one of them in all three:

```sh
embercache config check --hot-max-bytes 64MiB
EMBERCACHE_HOT_MAX_BYTES=64MiB embercache config check
printf 'hot:\\n  max_bytes: 64MiB\\n' > embercache.yaml
embercache config check --config embercache.yaml
embercache config show
```

`config check` names every field that is wrong and where it came from, and what is wrong with the
policy, the files of tokens that it names, the keys of encryption and the salt, which it reads as a
start does. `config show` prints all settings as YAML. Sizes are written like `64MiB`, times like
`500ms`, `30s` or `24h`, lists with commas. Secrets have no flag, because others can read the
arguments of a process.
"""


def text() -> str:
    """The whole page."""
    lines = [_HEAD]
    section = ""
    for setting in all_settings():
        if setting.section != section:
            section = setting.section
            doc = Settings.model_fields[section].annotation.__doc__.strip()
            lines += ["", f"## {section}", "", doc, ""]
            lines += ["| setting | variable | default | meaning |", "|---|---|---|---|"]
        lines.append(_row(setting))
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _row(setting: Setting) -> str:
    name = setting.path if is_secret(setting) else setting.flag
    default = ""
    if not is_secret(setting):
        default = plain(setting, setting.field.get_default(call_default_factory=True))
        # The default of this machine, as that of any machine.
        default = default.replace(str(default_folder()), "~/.cache/embercache/models")
    meaning = (setting.field.description or "").replace("|", "\\|")
    return f"| `{name}` | `{setting.variable}` | {f'`{default}`' if default else ''} | {meaning} |"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
