"""All scenarios, in running order."""

from loadtest.chaos.attack import Attack
from loadtest.chaos.bad_requests import BadRequests
from loadtest.chaos.broken_redis import RedisFlush, RedisFreeze, RedisKill, RedisProxy
from loadtest.chaos.brownout import BrownoutGoodput
from loadtest.chaos.clients import BadClients
from loadtest.chaos.clock_jump import ClockJump
from loadtest.chaos.cold import Cold
from loadtest.chaos.disk_full import DiskFull
from loadtest.chaos.ending import ServiceKill, Sigterm
from loadtest.chaos.events import Events
from loadtest.chaos.failover import ClusterFailover, SentinelFailover
from loadtest.chaos.live_counts import ReplayedLiveCounts
from loadtest.chaos.log_replay import ReplayedLog
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
        SentinelFailover,
        ClusterFailover,
        ServiceKill,
        Sigterm,
        Overload,
        BrownoutGoodput,
    ),
    *(BadClients, DiskFull, ClockJump, ReplayedLog, Events, ReplayedLiveCounts, Cold, BadRequests, Attack, Memory),
)
