"""Which of some weighted names a user falls to: for good, in every process, and without a memory of users.

Weighted rendezvous hashing (Thaler and Ravishankar 1998; the least -ln(u)/w wins): the shares are exact, and a weight
that rises moves users to its name from the others, and nobody between those.
"""

import hashlib
import math
from collections.abc import Sequence

_STEPS = 2.0**64


class Assignment:
    """`shares` are the names' shares of all users."""

    def __init__(self, salt: str, names: Sequence[str], weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        # By name, not by place, so that a name which comes or goes moves its own users alone.
        self._racers = [
            (place, hashlib.blake2b(f"{len(salt)}:{salt}{name}\0".encode(), digest_size=8), 1.0 / weight)
            for place, (name, weight) in enumerate(zip(names, weights, strict=True))
            if weight > 0
        ]

    def place_of(self, user_id: str) -> int:
        """The place of the user's name among the names."""
        user = user_id.encode("utf-8", "surrogatepass")
        first, least = 0, math.inf
        for place, racer, slowness in self._racers:
            hashed = racer.copy()
            hashed.update(user)
            # In (0, 1].
            uniform = (int.from_bytes(hashed.digest(), "little") + 0.5) / _STEPS
            time = -math.log(uniform) * slowness
            if time < least:
                first, least = place, time
        return first
