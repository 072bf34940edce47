"""All scenarios, in the order in which they are run."""

from loadtest.chaos.broken_redis import REDIS_FLUSH, REDIS_FREEZE, REDIS_KILL
from loadtest.chaos.clients import CLIENTS
from loadtest.chaos.memory import MEMORY
from loadtest.chaos.overload import OVERLOAD
from loadtest.chaos.redis_proxy import REDIS_PROXY
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.sigterm import SIGTERM
from loadtest.chaos.worker_kill import WORKER_KILL

SCENARIOS: tuple[Scenario, ...] = (
    REDIS_KILL,
    REDIS_FREEZE,
    REDIS_PROXY,
    REDIS_FLUSH,
    WORKER_KILL,
    SIGTERM,
    OVERLOAD,
    CLIENTS,
    MEMORY,
)
