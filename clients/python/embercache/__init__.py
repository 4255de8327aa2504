"""Python client of Embercache."""

__version__ = "0.1.0"
