"""`msd --help`, `--version` and shell completion. Loads a command's package only to complete its options."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from msd.commands import GROUPS, LAB, Command, lab_commands, load


def help_app() -> typer.Typer:
    """Return the app that lists all commands, by what a person does with them."""
    app = typer.Typer(
        cls=_listing(GROUPS), no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
    )

    @app.callback(help="Click prediction with a large language model's knowledge, distilled.")
    def msd(
        shown: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None:
        pass

    return app


def lab_app() -> typer.Typer:
    """Return the app that lists the laboratory's commands. Raises MsdError outside a checkout."""
    app = typer.Typer(
        cls=_listing({"Commands": lab_commands()}, LAB),
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help="The laboratory: what measures the product.")(lambda: None)
    return app


def _listing(groups: Mapping[str, Mapping[str, Command]], *prefix: str) -> type[TyperGroup]:
    """Return a group of commands that lists them without importing them."""
    panels = {name: (panel, command) for panel, group in groups.items() for name, command in group.items()}

    class Listing(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - a context of Typer's own copy of click
            return list(panels)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - as above
            if cmd_name not in panels:
                return None
            panel, command = panels[cmd_name]
            return TyperCommand(cmd_name, help=command.help, rich_help_panel=panel)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as above
            name, *rest = args
            if name == LAB and not prefix:
                return name, typer.main.get_command(lab_app()), rest
            return name, typer.main.get_command(load(*prefix, name, *rest)), rest

    return Listing


def _print_version(shown: bool) -> None:
    if shown:
        try:
            typer.echo(f"msd-ctr {version('msd-ctr')}")
        except PackageNotFoundError:
            typer.echo("msd-ctr, a checkout that is not installed")
        raise typer.Exit
