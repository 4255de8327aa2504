"""What the sections of the settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings that belong together. What it and its fields say of themselves is documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
