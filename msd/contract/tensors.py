"""The ranker's tensors by name, and what a reply can say of how candidates and users were scored."""

from typing import Any, Literal

from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
Rung = Literal["cached", "encoded", "category_prior", "prior"]
UserRung = Literal["cached", "unknown"]
MOST_SHOWN = 8.0
"""Impressions of one item that count at most, so that no item outweighs all others of a history."""
