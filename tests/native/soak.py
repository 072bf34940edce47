"""`python -m tests.native.soak`: holds the native core against `msd.contract` over as many drawn requests as are asked
for. With a core built by `python -m native.build --sanitise`, a wrong access or undefined behaviour ends it."""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import native
from tests.native.comparison import Pair
from tests.native.worlds import draw_world

_OUTCOMES = ("filled", "unread", "lacking")
_REQUESTS_A_WORLD = 60


def soak(requests: int, seed: int) -> dict[str, int]:
    """How many requests came to each outcome. Raises AssertionError at the first difference."""
    outcomes: Counter[int] = Counter()
    while outcomes.total() < requests:
        random = Random(seed)
        with TemporaryDirectory() as folder:
            world = draw_world(random, Path(folder))
            for is_file in (True, False):
                pair = Pair(world, random, is_file)
                for _ in range(_REQUESTS_A_WORLD):
                    outcomes[pair.compare(random)] += 1
        seed += 1
    return {name: outcomes[number] for number, name in enumerate(_OUTCOMES)}


def main() -> None:
    """Soaks, and prints JSON of what the core did with the requests."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    if native.core is None:
        raise SystemExit(f"there is no native core: {native.REASON}")
    started = time.monotonic()
    outcomes = soak(given.requests, given.seed)
    result = {
        "core": native.core.__file__,
        "instructions": native.core.INSTRUCTIONS,
        "requests": sum(outcomes.values()),
        **outcomes,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
