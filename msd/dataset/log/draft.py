"""The commented dataset.toml of a new dataset: each line with its source column and reason."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from msd.dataset.log.guess import Guess, Side
from msd.dataset.log.roles import NAMING, Role, RoleName

_ITEMS = "# One row an item. `text` is all that the language model and the student read of it."
NO_USER = "each row is an anonymous person's, who has neither history nor click rate"


@dataclass(frozen=True)
class Template:
    """A text template and its comment."""

    text: str | None
    reason: str
    title: str | None = None


@dataclass(frozen=True)
class Draft:
    """The content of dataset.toml; `notes`: how the files were read."""

    name: str
    origin: str
    roles: dict[RoleName, Role]
    click_rate: float
    items: Template
    users: Template | None
    columns: Sequence[Guess]
    notes: Sequence[str]

    @property
    def features(self) -> list[Guess]:
        """The columns that the model sees."""
        return [column for column in self.columns if column.is_feature]

    @property
    def left_out(self) -> list[Guess]:
        """The unused columns."""
        return [column for column in self.columns if column.kind == "none"]


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
        *_entities("items", _ITEMS, draft.items),
        *_entities("users", "# One row a user.", draft.users),
        *_counts(draft),
    ]
    for feature in draft.features:
        values = {"name": feature.name, "side": feature.side, "kind": feature.kind} | feature.options
        lines += ["", _comment(f"column {feature.source}: {feature.reason}"), "[[features]]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    if draft.left_out:
        lines += ["", "# Left out; `msd data init` takes a doubtful one with --keep COLUMN:"]
        lines += [_comment(f"  {left.source}: {left.reason}") for left in draft.left_out]
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


def _entities(name: str, about: str, template: Template | None) -> list[str]:
    """Return the section of items or users."""
    if template is None:
        return ["", "# Nothing is known of users but their events, so there is no [users] section."]
    key = f"{name.removesuffix('s')}_id"
    lines = ["", about, f"[{name}]", f'file = "{name}.parquet"', f'{key} = "{key}"']
    if template.title:
        lines.append(f"title = {toml_value(template.title)}")
    lines.append(_comment(template.reason))
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


def template_of(side: Side, columns: Sequence[Guess]) -> Template:
    """Return the template: title, other texts, then categories and, for users, numbers, each with its name."""
    own = [column for column in columns if column.side == side]
    texts = {column.name: column.values.drop_nulls().str.len_chars() for column in own if column.kind == "text"}
    names = sorted(texts, key=lambda name: (NAMING.search(name) is None, texts[name].sum() / max(1, texts[name].len())))
    said = [column.name for column in own if column.is_feature and _tells(column)]
    parts = [f"{{{name}}}." for name in names]
    parts += [f"{name.replace('_', ' ').capitalize()}: {{{name}}}." for name in said]
    if not parts:
        what = f"NO TEXT: no column describes {'an item' if side == 'item' else 'a user'} in words; add one, and a"
        return Template(None, f'{what} template such as text = "{{title}}. {{description}}"')
    what = "texts first, then categories in words" if names else "there is no text, so categories are used"
    title = names[0] if names and side == "item" else None
    return Template(" ".join(parts), f"{what}; a missing value leaves its place empty.", title)


def _tells(column: Guess) -> bool:
    """Return whether the values are meaningful to a reader: words rather than codes; for users, numbers too."""
    if column.kind == "numeric":
        return column.side == "user"
    flat = (column.values.explode() if column.kind == "bag" else column.values).drop_nulls().unique()
    return flat.len() > 0 and int(flat.str.contains(r"^[^\d]*[^\W\d_]{2,}[^\d]*$").sum()) >= flat.len() / 2
