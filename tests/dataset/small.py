"""A dataset small enough to write by hand: five users with ten events each, as CSV text that a test may spoil."""

from pathlib import Path

CONFIG = """format = 1
name = "small"

[events]
file = "events.csv"

[items]
file = "items.csv"
title = "title"
text = "{title}, {tags}"

[users]
file = "users.csv"
text = "from {city}"
"""


def feature(name: str, side: str, kind: str) -> str:
    return f'\n[[features]]\nname = "{name}"\nside = "{side}"\nkind = "{kind}"\n'


CONFIG += feature("tags", "item", "bag") + feature("price", "item", "numeric")
CONFIG += feature("city", "user", "categorical") + feature("device", "context", "categorical")
ITEMS = "item_id,title,tags,price\n1,Tent,camping|outdoor,99.5\n2,Boots,outdoor,\n10,Mystery,,7\n"
USERS = "user_id,city\n" + "".join(f"u{user},York\n" for user in range(1, 6))
EVENTS = "user_id,item_id,at,label,device\n" + "".join(
    f"u{user},{(1, 2, 10)[(user + time) % 3]},{1_700_000_000 + time},{time % 2},ios\n"
    for time in range(10)
    for user in range(1, 6)
)


def write_small(
    folder: Path, *, config: str = CONFIG, events: str = EVENTS, items: str = ITEMS, users: str = USERS
) -> Path:
    """Writes the dataset with whichever parts a test replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"dataset.toml": config, "events.csv": events, "items.csv": items, "users.csv": users}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def spoil(text: str, row: int, column: str, value: str) -> str:
    """A CSV text with one cell replaced; rows of data count from 1."""
    lines = text.splitlines()
    cells = lines[row].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n"
