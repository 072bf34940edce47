"""Parts of uvicorn that the service is built on, some of them private: a release that changes one has to be read."""

import hashlib
import inspect

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

# Of the source of each. Who raises uvicorn's upper bound reads what changed in it, then `service/http/protocol.py` and
# `service/http/server.py`, and notes the new digest here.
KNOWN = {
    HttpToolsProtocol: "18fdf324b11bf160",
    RequestResponseCycle: "e67d470d435dcc1c",
    Server: "06e799f7c58f8be6",
    ServerState: "f2260fbf10154746",
}


@pytest.mark.parametrize("part", KNOWN, ids=lambda part: part.__name__)
def test_what_the_service_is_built_on_is_as_it_was(part: type) -> None:
    digest = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]
    assert digest == KNOWN[part], f"uvicorn has another {part.__name__}"
