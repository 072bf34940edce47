"""What `msd load` does and for how long. Measures nothing."""

from dataclasses import dataclass

from loadtest.traffic import Mix


@dataclass(frozen=True)
class LoadPlan:
    """The traffic, and the parts of the run.

    mix: how many candidates requests have; cold: the share of them that no store knows; deadline_ms: what requests say
    of their time, if anything. Capacity is found by `clients` that send on having their replies; `loads` are shares of
    it, offered by Poisson arrivals, and `burst_load` in bursts. `users` are Locust's, of ten requests a second each.
    """

    mix: Mix
    cold: float = 0.0
    deadline_ms: int | None = None
    seconds: float = 5.0
    clients: int = 8
    loads: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
    burst_load: float = 0.5
    users: int = 10
    bodies: int = 1_000
    at_rest: int = 300
