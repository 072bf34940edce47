"""`msd bench`: compares our service with a naive one; `msd bench BUNDLE`: latency of a running service; `msd bench
--graph`: speed of the graph alone.
"""

from typing import Any

import typer

from loadtest.bench.command import is_meant, services_app
from loadtest.running_command import running_app

_GRAPH = "--graph"


class _Bench(typer.Typer):
    """Three commands with one name, distinguished by --graph and BUNDLE: their common option --json has different
    meanings."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Typer has it
        arguments, name = list(kwargs.pop("args")), kwargs.pop("prog_name")
        if _GRAPH not in arguments:
            call = services_app if is_meant(arguments) else running_app
            return call(*args, args=arguments, prog_name=name, **kwargs)
        from model_export.race.command import graph_app

        arguments.remove(_GRAPH)
        return graph_app(*args, args=arguments, prog_name=f"{name} {_GRAPH}", **kwargs)


app = _Bench(add_completion=False)
