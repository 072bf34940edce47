"""All scenarios, in running order."""

from loadtest.chaos.attack import Attack
from loadtest.chaos.bad_requests import BadRequests
from loadtest.chaos.broken_redis import RedisFlush, RedisFreeze, RedisKill, RedisProxy
from loadtest.chaos.brownout import Brownout
from loadtest.chaos.clients import BadClients
from loadtest.chaos.clock_jump import ClockJump
from loadtest.chaos.cold import Cold
from loadtest.chaos.disk_full import DiskFull
from loadtest.chaos.ending import ServiceKill, Sigterm
from loadtest.chaos.events import Events
from loadtest.chaos.failover import Cluster, Sentinel
from loadtest.chaos.live_counts import LiveCounts
from loadtest.chaos.log_replay import LogReplay
from loadtest.chaos.memory import Memory
from loadtest.chaos.overload import Overload
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.swap import Swap

SCENARIOS: tuple[type[Scenario], ...] = (
    *(
        Swap,
        RedisKill,
        RedisFreeze,
        RedisProxy,
        RedisFlush,
        Sentinel,
        Cluster,
        ServiceKill,
        Sigterm,
        Overload,
        Brownout,
    ),
    *(BadClients, DiskFull, ClockJump, LogReplay, Events, LiveCounts, Cold, BadRequests, Attack, Memory),
)
