"""All scenarios, in the order in which they are run."""

from loadtest.chaos.attack import ATTACK
from loadtest.chaos.bad_requests import BAD_REQUESTS
from loadtest.chaos.broken_redis import REDIS_FLUSH, REDIS_FREEZE, REDIS_KILL
from loadtest.chaos.clients import CLIENTS
from loadtest.chaos.clock_jump import CLOCK_JUMP
from loadtest.chaos.cold import COLD
from loadtest.chaos.disk_full import DISK_FULL
from loadtest.chaos.events import EVENTS
from loadtest.chaos.failover import CLUSTER, SENTINEL
from loadtest.chaos.live_counts import LIVE_COUNTS
from loadtest.chaos.log_replay import LOG_REPLAY
from loadtest.chaos.memory import MEMORY
from loadtest.chaos.overload import OVERLOAD
from loadtest.chaos.redis_proxy import REDIS_PROXY
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.service_kill import SERVICE_KILL
from loadtest.chaos.sigterm import SIGTERM
from loadtest.chaos.swap import SWAP

SCENARIOS: tuple[Scenario, ...] = (
    SWAP,
    REDIS_KILL,
    REDIS_FREEZE,
    REDIS_PROXY,
    REDIS_FLUSH,
    SENTINEL,
    CLUSTER,
    SERVICE_KILL,
    SIGTERM,
    OVERLOAD,
    CLIENTS,
    DISK_FULL,
    CLOCK_JUMP,
    LOG_REPLAY,
    EVENTS,
    LIVE_COUNTS,
    COLD,
    BAD_REQUESTS,
    ATTACK,
    MEMORY,
)
