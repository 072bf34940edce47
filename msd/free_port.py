"""A free port for a server that is about to start."""

import secrets
import socket
import sys

# Below the ephemeral ports, which connections use by the thousand.
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """Return a free port. On Linux no other call, in any process, returns it before this process ends."""
    while True:
        # From the system's randomness: processes with equally seeded `random` would draw the same ports.
        port = secrets.choice(_PORTS)
        holder = socket.socket()
        try:
            # On all addresses, because a server may listen on any.
            holder.bind(("", port))
        except OSError:
            holder.close()
            continue
        if sys.platform == "linux":
            # A server sets this too, and may listen there; another draw does not, and finds the port taken.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Closed only when the process ends.
            holder.detach()
        else:
            holder.close()
        return port
