"""Synthetic headline tests from a known law, for use without external data. A headline is a filled template; its click
rate is that of its story times the effect of its wording.
"""

from datetime import date, timedelta

import numpy as np
import polars as pl

# Effect of a phrase on the log-odds of a click.
OPENINGS = {
    "": 0.0,
    "You won't believe how": 0.3,
    "Here is the reason": 0.15,
    "A short note on how": -0.3,
    "Watch the moment": 0.2,
    "According to a report,": -0.2,
    "9 pictures that show how": 0.1,
}
PEOPLE = {
    "a teacher": 0.1,
    "a committee": -0.25,
    "two sisters": 0.15,
    "a city": -0.1,
    "a nurse": 0.1,
    "an engineer": 0.0,
}
DEEDS = {
    "saved a garden": 0.1,
    "changed a rule": -0.1,
    "found a lost dog": 0.25,
    "mended an old bus": 0.0,
    "answered a bully": 0.3,
    "counted the birds": -0.15,
    "opened a library": 0.0,
    "stopped a flood": 0.1,
}
# No effect; they make nearly all headlines distinct.
PLACES = (
    "Aldham Brook Carrow Denby Elmton Farnley Gorse Hadley Ivybridge Kelso Larkhill Milton Norwood Oakley Penrith "
    "Quarley Ripon Selby Tarvin Upton Varley Weston Yarm Zeal"
).split()
ENDINGS = {"": 0.0, "and what came next is lovely": 0.2, "in the second quarter": -0.3, "with help from strangers": 0.1}
_BASE = -4.2  # log-odds of a click on a story whose wording has no effect: about 1.5 %
_STORIES = 0.45  # standard deviation between stories, which no headline shows


def invent_tests(tests: int = 900, seed: int = 0) -> pl.DataFrame:
    """Return packages as the archive has them, four headlines per test; `law` is the click rate that each was drawn
    from."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(tests):
        story, seen = _BASE + _STORIES * rng.standard_normal(), set[str]()
        day = date(2020, 1, 1) + timedelta(days=number)
        while len(seen) < 4:
            chosen = [list(words.items())[rng.integers(len(words))] for words in (OPENINGS, PEOPLE, DEEDS, ENDINGS)]
            place = f"in {PLACES[rng.integers(len(PLACES))]}"
            phrases = [phrase for phrase, _ in chosen]
            headline = " ".join(phrase for phrase in (*phrases[:3], place, phrases[3]) if phrase)
            if headline in seen:
                continue
            seen.add(headline)
            law = 1 / (1 + np.exp(-story - sum(worth for _, worth in chosen)))
            shown = int(rng.integers(2_000, 5_000))
            rows.append(
                (
                    f"test-{number:04}",
                    "",
                    f"{headline[:1].upper()}{headline[1:]}.",
                    day,
                    shown,
                    rng.binomial(shown, law),
                    law,
                )
            )
    columns = ["test", "image", "headline", "day", "impressions", "clicks", "law"]
    return pl.DataFrame(rows, schema=columns, orient="row")
