"""The frozen corpus: 20,000 drawn requests of every form, each with a digest of all that the native core makes of it.

`python -m tests.native.corpus` writes the digests, if the core and the reference agree on every request. Do that after
a change of the draws, or of what a request means, and say in the commit what changed.
"""

import lzma
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.native.comparison import Pair
from tests.native.observed import DIGEST_BYTES, CoreOfWorld, Observed
from tests.native.worlds import draw_world

DIGESTS = Path(__file__).with_name("corpus.xz")
REQUESTS, _OF_A_WORLD = 20_000, 125


class Entry(NamedTuple):
    """A request of the corpus by its number, the world that it was drawn from, and the core that observed it."""

    number: int
    world: int
    core: CoreOfWorld
    observed: Observed


def entries(every: int = 1) -> Iterator[Entry]:
    """Yield the requests of every so many worlds; an odd number takes rows from files and from arenas."""
    with TemporaryDirectory() as folder:
        for seed in range(0, REQUESTS // _OF_A_WORLD, every):
            random = Random(seed)
            core = CoreOfWorld(draw_world(random, Path(folder)), random, seed % 2 == 0)
            for number in range(_OF_A_WORLD):
                yield Entry(_OF_A_WORLD * seed + number, seed, core, core.observe(random))


def known_digests() -> list[bytes]:
    """Return the digest of each request."""
    content = lzma.decompress(DIGESTS.read_bytes())
    return [content[place : place + DIGEST_BYTES] for place in range(0, len(content), DIGEST_BYTES)]


def main() -> None:
    digests = []
    for entry in entries():
        Pair(entry.core).check(entry.observed)
        digests.append(entry.observed.digest())
    DIGESTS.write_bytes(lzma.compress(b"".join(digests)))


if __name__ == "__main__":
    main()
