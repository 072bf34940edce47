"""What Locust's users ask for, read from an environment that the caller hands in, and how many users there are when.

Does not know Locust, which patches the process that imports it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from loadtest.requests import Route
from loadtest.traffic import Mix, Traffic, mix_of
from msd.contract.errors import MsdError

BUNDLE, CANDIDATES, COLD = "LOADTEST_BUNDLE", "LOADTEST_CANDIDATES", "LOADTEST_COLD"
DEADLINE, SHAPE, ROUTE = "LOADTEST_DEADLINE_MS", "LOADTEST_SHAPE", "LOADTEST_ROUTE"
SHAPES = ("bursts", "steps")
_PERIOD_S, _BURST_S = 20.0, 4.0
_FEW, MANY = 5, 40


class LocustSettings(NamedTuple):
    """Whose users and items requests are about, how many candidates they have, the share of those that no store knows,
    the requests' headers, and how they are sent."""

    bundle: Path
    mix: Mix
    cold: float
    headers: Mapping[str, str]
    route: Route = Route.SCORE

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in the variables `LOADTEST_*`. Raises MsdError naming the variable at fault."""
        if (shape := environ.get(SHAPE, "")) not in ("", *SHAPES):
            raise MsdError(f"{SHAPE}={shape}: has to be {' or '.join(SHAPES)}")
        if (route := environ.get(ROUTE) or Route.SCORE) not in list(Route):
            raise MsdError(f"{ROUTE}={route}: has to be {', '.join(Route)}")
        deadline = _number(environ, DEADLINE, 1e6)
        headers = {"Content-Type": "application/json"} | ({"X-Deadline-Ms": f"{deadline:.0f}"} if deadline else {})
        mix = mix_of(environ.get(CANDIDATES, "200"))
        cold = _number(environ, COLD, 1.0)
        if cold and route == Route.OPENRTB:
            raise MsdError(f"{COLD}={cold:g}: BidRequests take no texts of ads; with {ROUTE}={route} it has to be 0")
        return cls(Path(environ.get(BUNDLE, "")), mix, cold, headers, Route(route))

    def traffic(self, seed: int) -> Traffic:
        """Return the requests of one user. Raises MsdError if there is no bundle, or if it lacks the needed mapping."""
        traffic = Traffic(self.bundle, self.mix, seed, self.cold)
        if self.route is Route.OPENRTB:
            _ = traffic.mapping
        return traffic


def _number(environ: Mapping[str, str], name: str, most: float) -> float:
    """Return a variable's number, 0 if it is not set. Raises MsdError if it is not from 0 to `most`."""
    text = environ.get(name) or "0"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise MsdError(f"{name}={text}: has to be a number from 0 to {most:g}")
    return value


def users_at(shape: str, seconds: float) -> int:
    """Return a shape's number of users at a time: a few with bursts of many, or increasing in steps."""
    if shape == "bursts":
        return MANY if seconds % _PERIOD_S >= _PERIOD_S - _BURST_S else _FEW
    return _FEW * (1 + int(seconds / _PERIOD_S))
