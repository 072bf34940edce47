"""Which texts are encoded in one run: those of about one length, so that little is padding. Knows token ids alone."""

from collections.abc import Sequence


def runs_of(rows: Sequence[Sequence[int]], most_tokens: int) -> list[list[int]]:
    """The places of all rows, those of the shortest first, in runs of at most so many tokens, padding included; a row
    that is longer by itself has a run of its own."""
    runs: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if not runs or (len(runs[-1]) + 1) * len(rows[place]) > most_tokens:
            runs.append([])
        runs[-1].append(place)
    return runs
