"""Default template for texts of items or users: title, other texts, then categories in words."""

import re
from collections.abc import Sequence

import polars as pl

from msd.dataset.draft import Feature, Side, Template

_TITLES = re.compile(r"(^|_)(title|headline|name)$")


def template_of(side: Side, table: pl.DataFrame, features: Sequence[Feature]) -> Template:
    """Return the template: title, other texts, then categories and, for users, numbers, each with its name."""
    own = {feature.name: feature for feature in features if feature.side == side}
    texts = [name for name in table.columns[1:] if name not in own]
    texts.sort(key=lambda name: (_TITLES.search(name) is None, _length(table[name])))
    said = [name for name, feature in own.items() if _tells(feature, table[name])]
    parts = [f"{{{name}}}." for name in texts]
    parts += [f"{name.replace('_', ' ').capitalize()}: {{{name}}}." for name in said]
    title = texts[0] if texts and side == "item" else None
    if not parts:
        whom = {"item": "an item", "user": "a user"}.get(side)
        what = f"NO TEXT: no column describes {whom} in words; add one, and a template such as"
        return Template(None, f'{what} text = "{{title}}. {{description}}"')
    what = "texts first, then categories in words" if texts else "there is no text, so categories are used"
    return Template(" ".join(parts), f"{what}; a missing value leaves its place empty.", title)


def _length(values: pl.Series) -> float:
    return float(values.str.len_chars().cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def _tells(feature: Feature, values: pl.Series) -> bool:
    """Return whether the values are meaningful to a reader: words rather than codes; for users, numbers too."""
    if feature.kind == "numeric":
        return feature.side == "user"
    flat = (values.explode() if feature.kind == "bag" else values).drop_nulls().unique()
    return flat.len() > 0 and int(flat.str.contains(r"^[^\d]*[^\W\d_]{2,}[^\d]*$").sum()) >= flat.len() / 2
