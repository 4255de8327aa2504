"""Writes the dashboard for Grafana, files/dashboard.json: python -m helm.make_dashboard.

Labels: ``component`` is put on by the chart's monitors; where a metric has a label ``namespace`` of
its own, that of the cache, Prometheus calls it ``exported_namespace``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from helm.dashboard_panels import ROWS
from helm.values_file import CHART

FILE = CHART / "files" / "dashboard.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_UNITS_OF_SHARE = ("percentunit",)


@dataclass(slots=True)
class _Cursor:
    """Where the next panel goes, and its number."""

    x: int = 0
    y: int = 0
    height: int = 0
    number: int = 0

    def place(self, width: int, height: int) -> dict[str, Any]:
        """The next panel's number and place; a new line is begun when this one is full."""
        if self.x + width > _WIDTH:
            self.x, self.y = 0, self.y + self.height
        place = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x, self.height, self.number = self.x + width, height, self.number + 1
        return {"id": self.number, "gridPos": place}


def text() -> str:
    """The whole dashboard."""
    cursor = _Cursor()
    panels: list[dict[str, Any]] = []
    for title, row in ROWS.items():
        cursor.x = _WIDTH
        panels.append({"type": "row", "title": title, "panels": [], **cursor.place(_WIDTH, 1)})
        panels += [_panel(panel, cursor) for panel in row]
    dashboard = {
        "uid": "embercache",
        "title": "Embercache",
        "tags": ["embercache"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source_variable(), *map(_label_variable, ("namespace", "pod"))]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _panel(panel: dict[str, Any], cursor: _Cursor) -> dict[str, Any]:
    is_stat = panel["type"] == "stat"
    defaults: dict[str, Any] = {"unit": panel["unit"], "min": 0}
    if panel["unit"] in _UNITS_OF_SHARE:
        defaults["max"] = 1
    if not is_stat:
        stacking = {"mode": "normal" if panel["stacked"] else "none"}
        opacity = 40 if panel["stacked"] else 5
        defaults["custom"] = {"fillOpacity": opacity, "showPoints": "never", "stacking": stacking}
    return {
        "type": panel["type"],
        "title": panel["title"],
        "description": panel["description"],
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "exemplar": panel["exemplars"],
            }
            for number, (legend, expression) in enumerate(panel["queries"].items())
        ],
        **cursor.place(4 if is_stat else 12, 4 if is_stat else 8),
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }


def _label_variable(label: str) -> dict[str, Any]:
    """A choice of the values of a label; that of pods follows that of namespaces."""
    chosen = '{namespace=~"$namespace"}' if label == "pod" else ""
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values(embercache_uptime_seconds{chosen}, {label})"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
