"""Figures of the report."""

from collections.abc import Sequence
from typing import Any

__all__ = ["draw"]


def draw(records: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Returns figures by title."""
    return {}
