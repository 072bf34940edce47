"""The laboratory: benchmarks, reference models and chaos tests. In the checkout, not in the wheel; nothing that ships
imports it.

`COMMANDS` are those of `msd lab`: module, extras it needs, and help.
"""

COMMANDS = {
    "benchmark": ("lab.benchmark.command", "train", "Train and measure all models of a research benchmark."),
    "data": ("lab.data.command", "train", "Convert the data of a research benchmark."),
    "bench": (
        "lab.bench.command",
        "train,cpu,openvino,demo,load",
        "Compare the service with a naive one.",
    ),
    "chaos": (
        "lab.chaos.command",
        "train,cpu,openvino,demo",
        "Run chaos tests against a service and report the results.",
    ),
    "hours": ("lab.worlds.hours", "train,demo,dev", "Simulate a served day in which tastes move at noon."),
    "instant": (
        "lab.instant.command",
        "train,cpu",
        "Make the bundle of invented ads that `msd demo --instant` serves.",
    ),
    "lag": ("lab.lag", "train,cpu,live,demo", "Measure from an event to the first score that counts it."),
    "nights": ("lab.nights.command", "train,cpu,live,log", "Simulate days with a known law, and run `msd nightly`."),
    "observe": (
        "lab.observe.command",
        "cpu,encode,live,log,train,demo",
        "Verify that every dashboard panel and alert rule returns data.",
    ),
    "worlds": ("lab.worlds.command", "train,demo,dev", "Compare models on logs with known laws, and on real ones."),
}
