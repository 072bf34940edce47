"""An archive of the form of GroupLens's ml-1m.zip, with few films, raters and ratings, made here."""

import zipfile
from datetime import UTC, datetime
from pathlib import Path

FILMS = 40
# Of each user: two ratings in each month from May 2001 to February 2003.
MONTHS = [(2001, month) for month in range(5, 13)] + [(2002, month) for month in range(1, 13)] + [(2003, 1), (2003, 2)]
USERS = ("3", "12")
ROWS = {"train": 40, "valid": 20, "test": 20}


def ratings() -> list[str]:
    """Lines of ratings.dat: each part's first second and last are among them, and what lies just outside."""
    lines = []
    for user in USERS:
        for place, (year, month) in enumerate(MONTHS):
            start = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
            end = int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) - 1
            for offset, at in enumerate((start, end)):
                film = 1 + (2 * place + offset) % FILMS
                lines.append(f"{user}::{film}::{1 + (film + int(user)) % 5}::{at}")
    return lines


def films() -> list[str]:
    """Lines of movies.dat, in Latin-1; one film is not rated in any part."""
    first = ["1::Misérables, Les (1995)::Drama|Musical", "2::Children Are Watching us, The (1942)::Children's"]
    return first + [f"{number}::Film {number} ({1950 + number})::Comedy" for number in range(3, FILMS + 2)]


def write_archive(folder: Path, **files: list[str]) -> Path:
    """ml-1m.zip; `ratings` and `movies` take the place of the lines above."""
    path = folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in ({"ratings": ratings(), "movies": films()} | files).items():
            archive.writestr(f"ml-1m/{name}.dat", ("\n".join(lines) + "\n").encode("latin-1"))
    return path
