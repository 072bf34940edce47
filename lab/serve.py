"""`msd serve` with other limits than a service has (`service.limits`), so that experiments need not wait long."""

import json
import os
import sys
from dataclasses import replace

from loadtest.processes import Service
from msd.__main__ import main
from service import limits

_VARIABLE = "LAB_LIMITS"


def with_limits(service: Service, **values: object) -> Service:
    """Return how to start this service with these limits."""
    command = ["lab.serve" if part == "msd" else part for part in service.command]
    return replace(service, command=command, environment={**service.environment, _VARIABLE: json.dumps(values)})


if __name__ == "__main__":
    for name, value in json.loads(os.environ.pop(_VARIABLE)).items():
        setattr(limits, name, value)
    main(sys.argv[1:])
