"""The error of a model that cannot be set up."""

from __future__ import annotations


class SetupError(Exception):
    """A model pack cannot be fetched, read or run here.

    The message names the file or setting at fault and says what to do.
    """
