"""Runs a program of a guide, and writes down what it has left in ``vectors`` or ``answer``.

python leave.py PROGRAM FILE
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

left = runpy.run_path(sys.argv[1], run_name="__main__")
kept = {name: left[name] for name in ("vectors", "answer") if name in left}
text = json.dumps(kept, default=lambda array: array.tolist())
Path(sys.argv[2]).write_text(text, "utf-8")
