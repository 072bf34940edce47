"""Redis clusters whose nodes are slow to be taken for dead, and slots that move."""

from collections.abc import Sequence

from lab.bench.redis import RedisProcess


def fail_over_after(nodes: Sequence[RedisProcess], ms: int) -> None:
    """Silence of a node, after which these take it for dead."""
    for node in nodes:
        node.ask("CONFIG", "SET", "cluster-node-timeout", ms)


def move_slot(slot: int, source: RedisProcess, target: RedisProcess, keys: Sequence[bytes] | None = None) -> None:
    """Move a slot from one master to another, half-way only where `keys` names those that go."""
    names = {node: node.ask("CLUSTER", "MYID").decode() for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000) if keys is None else keys:
        source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    if keys is None:
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])
