"""What lies between the service and Redis delays, cuts short, resets, and lets nothing through, one after another."""

from loadtest.chaos.broken_redis import Broken, found, recovered_s
from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.proxy import Mode, Proxy
from loadtest.chaos.scenario import Found, Scenario

_NAME = "redis-proxy"
_MODES: tuple[Mode, ...] = ("delay", "truncate", "reset", "hold")


def _run(environment: Environment) -> Found:
    plan = environment.plan
    each = plan.broken_s / 2
    seconds = plan.steady_s + each * len(_MODES) + plan.mended_s
    with environment.redis(_NAME) as redis, Proxy(redis.port) as proxy:
        with environment.service(_NAME, f"redis://127.0.0.1:{proxy.port}/0") as service:
            target = environment.target(service.url)
            rate = plan.share * capacity(target, plan.capacity_s)
            with Load(target, rate, seconds) as load:
                load.until(plan.steady_s)
                broken = load.now_s
                for place, mode in enumerate(_MODES):
                    proxy.mode = mode
                    load.mark(mode)
                    load.until(broken + each * (place + 1))
                proxy.mode = "pass"
                mended = load.mark("all passes")
            recovered = recovered_s(load, target)
    # Between two ways of breaking it Redis may be heard for a moment, and rows are fresh then.
    span = Broken(broken, mended, mended, recovered)
    return found(_NAME, load.timeline, span, plan.deadline_ms, is_always_broken=False)


REDIS_PROXY = Scenario(_NAME, "What lies between service and Redis delays, truncates, resets, and is silent", (), _run)
