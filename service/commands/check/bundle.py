"""Whether the bundles that are to be served can be: whole, signed where that is asked for, loadable, and how old."""

import time

from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from service.commands.check.finding import Finding, Group
from service.deployment.source import Source
from service.runtimes.choice import open_runtime
from service.settings import Settings
from service.trust import Trust

_OLD_S = 14 * 86_400.0
_DAY_S = 86_400.0


def look_at_bundles(settings: Settings) -> tuple[list[Finding], list[Bundle]]:
    """Verifies and loads them, one after the other; and those that are whole."""
    group = Group("bundle")
    bundles = []
    try:
        trust = Trust(settings.trusted_keys)
        for folder in sorted(Source(settings).wanted().folders):
            bundles.append(trust.open(folder, rows=settings.store == "file"))
    except MsdError as error:
        group.error(str(error), "a service does not start with it, and does not swap to it", "copy or export it again")
    for bundle in bundles:
        _runtime(group, settings, bundle)
        _age(group, bundle)
    return group.findings, bundles


def _runtime(group: Group, settings: Settings, bundle: Bundle) -> None:
    try:
        engine = open_runtime(bundle, settings).engine
    except MsdError as error:
        group.error(str(error), "a service does not start with it", "see above")
        return
    told = f"{bundle.folder}: {bundle.manifest.model_version}, run by {engine.name} in {engine.precision}"
    if engine.key not in bundle.manifest.tolerances:
        known = ", ".join(bundle.manifest.tolerances) or "none"
        group.error(
            f"{told}, for which it has no tolerance; it has: {known}",
            "it cannot prove its scores, and never gets ready",
            "set MSD_RUNTIME=auto and MSD_PROVIDER=cpu, or export it for this runtime",
        )
    elif engine.precision != bundle.precision.chosen:
        group.warning(
            f"{told}; it was made for {bundle.precision.chosen}",
            "it is slower than what was measured when it was exported",
            "set MSD_RUNTIME=auto and serve on a processor that has what it takes",
        )
    else:
        group.ok(f"{told} on {engine.provider}")


def _age(group: Group, bundle: Bundle) -> None:
    days = (time.time() - bundle.manifest.created_at) / _DAY_S
    told = f"{bundle.folder}: made {days:.0f} days ago"
    if days < -1 / 24:
        group.warning(f"{bundle.folder}: made in the future", "a clock is wrong, here or there", "set the clocks")
    elif days * _DAY_S > _OLD_S:
        group.warning(
            told, "what users and items are like has changed since", "train and export again, or publish deltas"
        )
    else:
        group.ok(told)
