"""All scenarios, in running order."""

from lab.chaos.attack import Attack
from lab.chaos.bad_requests import BadRequests
from lab.chaos.broken_redis import RedisFlush, RedisFreeze, RedisKill, RedisProxy
from lab.chaos.brownout import BrownoutGoodput
from lab.chaos.clients import BadClients
from lab.chaos.clock_jump import ClockJump
from lab.chaos.cold import Cold
from lab.chaos.disk_full import DiskFull
from lab.chaos.ending import ServiceKill, Sigterm
from lab.chaos.events import Events
from lab.chaos.failover import ClusterFailover, SentinelFailover
from lab.chaos.live_counts import ReplayedLiveCounts
from lab.chaos.log_replay import ReplayedLog
from lab.chaos.memory import Memory
from lab.chaos.overload import Overload
from lab.chaos.scenario import Scenario
from lab.chaos.swap import Swap

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
