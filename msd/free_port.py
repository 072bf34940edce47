"""A port for a server that is about to be started, and for no other."""

import secrets
import socket
import sys

# Below those that the kernel gives to connections, which come and go by the thousand.
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port on which no one listens. On Linux no other call, in any process, draws it before this process ends."""
    while True:
        # Drawn by the system: processes whose module `random` is seeded alike would all draw the same ones.
        port = secrets.choice(_PORTS)
        holder = socket.socket()
        try:
            # On every address, as a server may listen on any.
            holder.bind(("", port))
        except OSError:
            holder.close()
            continue
        if sys.platform == "linux":
            # Whoever sets this too, as servers do, may listen there from now on; a draw does not, and finds it taken.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Never closed, but by the end of the process.
            holder.detach()
        else:
            holder.close()
        return port
