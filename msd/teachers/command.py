"""`msd teach`: has a teacher write what it knows of a dataset's items and users."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from msd.dataset.load import load_dataset
from msd.teachers.backend import Backend, Choice, Limits, steerable, teacher_of
from msd.teachers.collect import Collected, collect_knowledge
from msd.teachers.display import Display, summary
from msd.teachers.estimate import Estimate, Prices, estimate
from msd.teachers.journal import QUARANTINE_FILE
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import ANSWER_TOKENS, BYTES_A_TOKEN
from msd.teachers.seeds import Seeding
from msd.teachers.share import join_answers, parse_share
from msd.teachers.teacher import Teacher

app = typer.Typer(add_completion=False)


def _price(tokens: str) -> Any:  # noqa: ANN401 - what typer takes for an option
    return typer.Option(min=0.0, help=f"Price per million tokens that {tokens}.")


@app.command("teach")
def teach(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the knowledge.")],
    teacher: Annotated[Backend, typer.Option(help="Kind of teacher.")] = Backend.RECORDED,
    url: Annotated[str | None, typer.Option(help="Address of the server, including /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name on the server, or a local folder or GGUF file.")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable that holds the API key.")] = "TEACHER_API_KEY",
    seeds: Annotated[int, typer.Option(min=0, help="Examples per level, written by the seed teacher.")] = 0,
    seed_teacher: Annotated[Backend | None, typer.Option(help="Kind of seed teacher.")] = None,
    seed_url: Annotated[str | None, typer.Option(help="--url of the seed teacher.")] = None,
    seed_model: Annotated[str | None, typer.Option(help="--model of the seed teacher.")] = None,
    seed_key_variable: Annotated[str, typer.Option(help="--key-variable of the seed teacher.")] = "SEED_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Concurrent requests to a server.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.001, help="Timeout of one reply, in seconds.")] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, max=20, help="Attempts per request to a server.")] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Questions per batch of a local model.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per answer.")] = 1024,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Ask only the K-th of N shares; each needs its own OUT.")
    ] = "1/1",
    join: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="First import the answers of another OUT; repeatable."),
    ] = None,
    only_estimate: Annotated[bool, typer.Option("--estimate", help="Ask nothing; estimate tokens and cost.")] = False,
    price_in: Annotated[float, _price("the teacher reads")] = 0.0,
    price_out: Annotated[float, _price("the teacher writes")] = 0.0,
    seed_price_in: Annotated[float, _price("the seed teacher reads")] = 0.0,
    seed_price_out: Annotated[float, _price("the seed teacher writes")] = 0.0,
) -> None:
    """Ask a teacher what it knows of each item and user. If interrupted, run it again to resume."""
    data = load_dataset(dataset)
    share = parse_share(part)
    limits = Limits(concurrency, timeout, attempts, batch, max_tokens)
    bulk = teacher_of(Choice(teacher, url, model, key_variable), data.config, limits)
    seeding = None
    if seed_teacher is not None and seeds:
        choice = Choice(seed_teacher, seed_url, seed_model, seed_key_variable, "--seed-")
        seeding = Seeding(teacher_of(choice, data.config, limits), seeds, steerable(bulk).steered)
    elif seed_teacher or seeds or seed_url or seed_model:
        raise TeacherError("seeds need both --seeds, how many, and --seed-teacher, who writes them")
    prices, seed_prices = Prices(price_in, price_out), Prices(seed_price_in, seed_price_out)
    console = Console(soft_wrap=True, highlight=False)
    if only_estimate:
        if join:
            raise TeacherError("--join writes into OUT, --estimate writes nothing: give one of them")
        _tell_estimate(console, estimate(data, bulk, out, seeding, share), bulk, seeding, prices, seed_prices)
        return
    if join:
        console.print(f"{out}: took {join_answers(out, join)} answers of {len(join)} folders", markup=False)
    with Display(console, prices, seed_prices) as display:
        collected = collect_knowledge(data, bulk, out, display.show, seeding, share)
    _conclude(console, collected, out, bulk)


def _tell_estimate(
    console: Console,
    estimated: tuple[Estimate, Estimate],
    bulk: Teacher,
    seeding: Seeding | None,
    prices: Prices,
    seed_prices: Prices,
) -> None:
    """What asking would take: of those who write seeds, and of the others."""
    strong, rest = estimated
    if seeding:
        console.print(summary(f"seeds by {seeding.teacher.name}", strong, seed_prices))
    console.print(summary(bulk.name, rest, prices))
    console.print(
        f"(a token for {BYTES_A_TOKEN} bytes, {ANSWER_TOKENS} an answer; repairs not counted; nothing was sent)"
    )


def _conclude(console: Console, collected: Collected, out: Path, teacher: Teacher) -> None:
    """Says what there is now; exit code 1 if questions have no usable answer."""
    record, refusals = collected.record, collected.refusals
    console.print(f"{out}: {record.items} items, {record.users} users, by {teacher.name}", markup=False)
    if collected.unrecognised:
        console.print(
            f"{collected.unrecognised} items were not recognised: what is written of them is inferred from their texts"
        )
    if not refusals:
        return
    silent = sum(one.raw is None for one in refusals)
    console.print(
        f"{len(refusals)} questions have no usable answer: {len(refusals) - silent} were answered wrongly, {silent} "
        f"not at all; {out / QUARANTINE_FILE} says why.\nThe knowledge can be used without them. Started again, "
        "`msd teach` asks those that were not answered; remove the line of another to have it asked again.",
        markup=False,
    )
    raise typer.Exit(1)
