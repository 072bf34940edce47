"""`msd check`: finds problems of a deployment, with their reason and remedy."""

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from operations.check.findings import LEVELS, Finding, Group, print_table
from operations.service_client import Ca, Cert, CertKey, KeyFile, ServiceClient, tls_of
from service.settings import PREFIX, Settings, SettingsError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The bundle's folder. Default: MSD_BUNDLE.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Also check a running service, e.g. http://127.0.0.1:8080.")] = None,
    key_file: KeyFile = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Check settings, machine, bundle, Redis and, with --url, a running service. Exit status 1 if there is an error.

    Run it where the service runs, with the service's environment.
    """
    # Imported here, so that --help answers at once.
    from operations.check.running import look_at_running

    # Problems are findings; the log would repeat them within the JSON.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # First, because wrong flags are not a problem of the deployment.
    client = ServiceClient(url, key_file, tls_of(ca, cert, cert_key)) if url else None
    given = {f"{PREFIX}BUNDLE": str(bundle)} if bundle is not None else {}
    environ = {**os.environ, **given}
    settings, group = None, Group("settings")
    # With only --url, on another machine, nothing else is checked.
    if client is None or any(name.startswith(PREFIX) for name in environ):
        try:
            settings = Settings.from_environ(environ)
            group.ok("all are known and consistent")
        except SettingsError as error:
            group.error(str(error), "the service does not start with it", "set it as docs/settings.md says")
    findings = group.findings
    if settings is not None:
        findings += _look(settings)
    if client is not None:
        findings += look_at_running(client, settings)
    if as_json:
        counts = Counter(finding.level for finding in findings)
        document = {
            "counts": {level: counts[level] for level in LEVELS},
            "findings": [finding.model_dump() for finding in findings],
        }
        typer.echo(json.dumps(document))
    else:
        print_table(Console(), findings)
    raise typer.Exit(int(any(finding.level == "error" for finding in findings)))


def _look(settings: Settings) -> list[Finding]:
    from operations.check.local import look_at_bundles, look_at_entry, look_at_machine
    from operations.check.redis import look_at_redis

    of_bundles, bundles = look_at_bundles(settings)
    return [*look_at_machine(settings), *look_at_entry(settings), *of_bundles, *look_at_redis(settings, bundles)]
