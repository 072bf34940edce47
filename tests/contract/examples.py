"""What the contract's tests share: one schema with every kind of field, codecs of one bundle, and records."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from msd.contract.rows import Records, RowCodec, RowContents, RowSide
from msd.contract.state import Impression
from tests.bundles.factory import example_schema

SCHEMA = example_schema()
BUNDLE_ID = "0123456789abcdef" * 2
OTHER_ID = "fedcba9876543210" * 2
USERS = RowCodec(SCHEMA, "user", BUNDLE_ID)
ITEMS = RowCodec(SCHEMA, "item", BUNDLE_ID)
AT = 1_764_066_000.0


def make_contents(side: RowSide, count: int, seed: int = 0) -> RowContents:
    """Columns of `count` rows, no two alike; every third has no vector."""
    rng = np.random.default_rng(seed)
    semantic = SCHEMA.semantic_width(side)
    sizes = [field.size for field in SCHEMA.indexed(side) for _ in range(field.width)]
    return RowContents(
        categorical=rng.integers(0, sizes, (count, len(sizes))).astype(np.int32),
        numeric=rng.standard_normal((count, SCHEMA.numeric_width(side))).astype(np.float32),
        semantic=rng.standard_normal((count, semantic)).astype(np.float32),
        present=np.arange(count) % 3 != 2,
        impressions=rng.integers(0, 100, count).astype(np.float64),
        clicks=rng.integers(0, 9, count).astype(np.float64),
        as_of=AT - rng.integers(0, 1_000, count).astype(np.float64),
    )


def make_records(codec: RowCodec, count: int, seed: int = 0) -> Records:
    return codec.pack(make_contents(codec.side, count, seed), AT)


def clicked(*item_ids: str, at: float = 0.0) -> tuple[Impression, ...]:
    """A click on each item, all at one time."""
    return tuple(Impression(at, item_id) for item_id in item_ids)


def flip(path: Path, place: int | None = None) -> None:
    """Change a bit of the byte at a place, by default in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def any_json(words: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | words,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
        max_leaves=12,
    )


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
