"""The commented dataset.toml of a new dataset: each line with its source column and reason."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl

from msd.dataset.roles import NAMING, Role, RoleName

Side = Literal["user", "item", "context"]
NO_USER = "all rows are those of one user, whose clicks are everybody's; parts are cut in time alone"


@dataclass(frozen=True)
class Feature:
    """A [[features]] entry, its source column, the reason, and whether it is known before the impression."""

    name: str
    side: Side
    kind: str
    options: dict[str, str | int | bool]
    source: str
    reason: str
    known: str


@dataclass(frozen=True)
class Template:
    """A text template and its comment."""

    text: str | None
    reason: str
    title: str | None = None


class LeftOut(NamedTuple):
    """An unused column, the reason, and whether it is known before the impression."""

    column: str
    reason: str
    known: str = "–"


@dataclass(frozen=True)
class Draft:
    """The content of dataset.toml; `notes`: how the files were read."""

    name: str
    origin: str
    roles: dict[RoleName, Role]
    click_rate: float
    items: Template
    users: Template | None
    features: list[Feature] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def draft_text(draft: Draft) -> str:
    """Return dataset.toml."""
    lines = [
        "# Made by `msd data init`, which guessed what follows from names and values: read why, mend what is",
        "# wrong, and run `msd data check` on this folder. The tables beside this file are copies, named as below.",
        *map(_comment, draft.notes),
        "format = 1",
        f"name = {toml_value(draft.name)}",
        f"description = {toml_value(f'from {draft.origin}')}",
        *_events(draft),
        *_items(draft.items),
        *_users(draft.users),
        *_counts(draft),
    ]
    for feature in draft.features:
        values = {"name": feature.name, "side": feature.side, "kind": feature.kind} | feature.options
        lines += ["", _comment(f"column {feature.source}: {feature.reason}"), "[[features]]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    if draft.left_out:
        lines += ["", "# Left out; `msd data init` takes a doubtful one with --keep COLUMN:"]
        lines += [_comment(f"  {left.column}: {left.reason}") for left in draft.left_out]
    return "\n".join(lines) + "\n"


def _events(draft: Draft) -> list[str]:
    keys: dict[RoleName, str] = {"user": "user_id", "item": "item_id", "time": "at", "label": "label"}
    keys |= {"impressions": "impressions", "clicks": "clicks"}
    keys |= {"conversion": "conversion", "converted_at": "converted_at"}
    counted = "impressions" in draft.roles
    head = "One row stands for many impressions; each becomes an event." if counted else "One row an impression."
    lines = ["", _comment(f"{head} {draft.click_rate:.2%} of the impressions were clicked."), "[events]"]
    lines.append('file = "events.parquet"')
    for role, key in keys.items():
        if found := draft.roles.get(role):
            lines.append(f"{key} = {toml_value(key)}  {_comment(f'column {found.column}: {found.reason}')}")
        elif role == "time":
            lines.append('at = "at"  # NO TIME was found: this is the number of the row, which must be in order')
        elif role == "user":
            lines.append(f'user_id = "user_id"  # NO USER was found: {NO_USER}')
    return lines


def _items(template: Template) -> list[str]:
    lines = ["", "# One row an item. `text` is all that the language model and the student read of it.", "[items]"]
    lines += ['file = "items.parquet"', 'item_id = "item_id"']
    if template.title:
        lines.append(f"title = {toml_value(template.title)}")
    lines.append(_comment(template.reason))
    if template.text:
        lines.append(f"text = {toml_value(template.text)}")
    return lines


def _users(template: Template | None) -> list[str]:
    if template is None:
        return ["", "# Nothing is known of users but their events, so there is no [users] section."]
    lines = [
        "",
        "# One row a user.",
        "[users]",
        'file = "users.parquet"',
        'user_id = "user_id"',
        _comment(template.reason),
    ]
    return [*lines, f"text = {toml_value(template.text)}"] if template.text else lines


def _counts(draft: Draft) -> list[str]:
    settings = []
    if "time" not in draft.roles:
        settings += [
            "# Without times, click rates neither fade nor age.",
            "half_life_days = 1e9",
            "age_cap_days = 1e-6",
        ]
    if strength := prior_strength(draft.click_rate):
        settings += [
            "# Clicks are rare: a rate of its own is believed after about as many impressions as a click takes.",
            f"prior_strength = {strength}.0",
        ]
    return ["", "[counts]", *settings] if settings else []


def prior_strength(click_rate: float) -> int | None:
    """Return the weight of the overall rate in impressions if clicks are rare; None for the default."""
    return min(1_000, round(1 / click_rate)) if 0 < click_rate < 0.05 else None


def toml_value(value: object) -> str:
    """Return a string, number, truth value, or list of them in TOML: written as in JSON, except for DEL, which TOML
    escapes too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    """Return a comment in which no text from the data can end the line."""
    return "# " + re.sub(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text)


def template_of(side: Side, table: pl.DataFrame, features: Sequence[Feature]) -> Template:
    """Return the template: title, other texts, then categories and, for users, numbers, each with its name."""
    own = {feature.name: feature for feature in features if feature.side == side}
    texts = [name for name in table.columns[1:] if name not in own]
    lengths = {name: float(table[name].str.len_chars().cast(pl.Float64).mean() or 0.0) for name in texts}  # type: ignore[arg-type]
    texts.sort(key=lambda name: (NAMING.search(name) is None, lengths[name]))
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


def _tells(feature: Feature, values: pl.Series) -> bool:
    """Return whether the values are meaningful to a reader: words rather than codes; for users, numbers too."""
    if feature.kind == "numeric":
        return feature.side == "user"
    flat = (values.explode() if feature.kind == "bag" else values).drop_nulls().unique()
    return flat.len() > 0 and int(flat.str.contains(r"^[^\d]*[^\W\d_]{2,}[^\d]*$").sum()) >= flat.len() / 2
