"""Command `msd teach`: a teacher writes what it knows of a dataset's items and users."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from msd.dataset.load import load_dataset
from msd.teachers.allowance import Budget
from msd.teachers.backend import Backend, Limits, TeacherChoice, steerable, teacher_of
from msd.teachers.checks import Doubtful
from msd.teachers.collect import DOUBTFUL_FILE, Collected, collect_knowledge
from msd.teachers.display import Display, summary
from msd.teachers.estimate import TeachingEstimate, estimate
from msd.teachers.journal import QUARANTINE_FILE
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import BYTES_A_TOKEN
from msd.teachers.seeds import Seeding
from msd.teachers.share import join_answers, parse_share
from msd.teachers.teacher import Prices, Teacher

if TYPE_CHECKING:
    from msd.teachers.batch_files import WrittenBatches

app = typer.Typer(add_completion=False)


def _price(tokens: str) -> Any:  # noqa: ANN401 - the type of typer's options
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
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.001, help="Most requests to a server per minute.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(min=1.0, help="Most tokens, read and written, of a server per minute.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0.0, help="Stop before this run could cost more; needs prices.")
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Ask only the K-th of N shares; each needs its own OUT.")
    ] = "1/1",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask only about a sample of at most N items and N users.")
    ] = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="First import the answers of another OUT; repeatable."),
    ] = None,
    batch_out: Annotated[
        bool, typer.Option("--batch-out", help="Send nothing; write the questions as batch files into OUT/batches.")
    ] = False,
    batch_in: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Read answers from a batch's result file; repeatable.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave out all answers that do not pass the checks.")
    ] = False,
    only_estimate: Annotated[bool, typer.Option("--estimate", help="Ask nothing; estimate tokens and cost.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The model's tokenizer.json, to count tokens for the estimate.")
    ] = None,
    price_in: Annotated[float, _price("the teacher reads")] = 0.0,
    price_out: Annotated[float, _price("the teacher writes")] = 0.0,
    seed_price_in: Annotated[float, _price("the seed teacher reads")] = 0.0,
    seed_price_out: Annotated[float, _price("the seed teacher writes")] = 0.0,
) -> None:
    """Ask a teacher what it knows of each item and user. If interrupted, run it again to resume."""
    _refuse_misfits(
        teacher,
        seed_teacher,
        {"--estimate": only_estimate, "--batch-out": batch_out, "--batch-in": bool(batch_in)},
        {
            "--batch-out": batch_out,
            "--batch-in": bool(batch_in),
            "--budget": budget is not None,
            "--requests-per-minute": requests_per_minute is not None,
            "--tokens-per-minute": tokens_per_minute is not None,
            "--tokenizer": tokenizer is not None,
        },
    )
    data = load_dataset(dataset)
    share = replace(parse_share(part), limit=limit)
    prices, seed_prices = Prices(price_in, price_out), Prices(seed_price_in, seed_price_out)
    limits = Limits(
        concurrency, timeout, attempts, batch, max_tokens, requests_per_minute, tokens_per_minute, tokenizer
    )
    cap = Budget(budget)
    bulk = teacher_of(TeacherChoice(teacher, url, model, key_variable), data.config, limits, cap, prices)
    results = None
    if batch_in:
        from msd.teachers.batch_files import BatchResults

        bulk = results = BatchResults(bulk, out, batch_in)
    seeding = None
    if seed_teacher is not None and seeds:
        choice = TeacherChoice(seed_teacher, seed_url, seed_model, seed_key_variable, "--seed-")
        strong = teacher_of(choice, data.config, limits, cap, seed_prices)
        seeding = Seeding(strong, seeds, steerable(bulk).steered)
    elif seed_teacher or seeds or seed_url or seed_model:
        raise TeacherError("seeds need both --seeds, how many, and --seed-teacher, who writes them")
    console = Console(soft_wrap=True, highlight=False)
    if only_estimate:
        if join:
            raise TeacherError("--join writes into OUT, --estimate writes nothing: give one of them")
        exact = teacher is Backend.LOCAL or tokenizer is not None
        _tell_estimate(console, estimate(data, bulk, out, seeding, share), bulk, seeding, prices, seed_prices, exact)
        return
    if join:
        console.print(f"{out}: took {join_answers(out, join)} answers of {len(join)} folders", markup=False)
    with Display(console, prices, seed_prices) as display:
        if batch_out:
            from msd.teachers.batch_files import write_batches

            written = write_batches(data, bulk, out, display.show, seeding, share, cap, prices)
        else:
            try:
                collected = collect_knowledge(data, bulk, out, display.show, seeding, share, strict)
            finally:
                for line in results.put_away() if results else []:
                    console.print(line, markup=False)
    if batch_out:
        _tell_batches(console, written, out)
    else:
        _conclude(console, collected, out, bulk)


def _refuse_misfits(
    teacher: Backend, seed_teacher: Backend | None, ways: dict[str, bool], servers: dict[str, bool]
) -> None:
    """Raise TeacherError for options that exclude each other, and for a server's options if no server is asked."""
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise TeacherError(f"{' and '.join(given)} are different ways to run: give one of them")
    server = Backend.OPENAI_COMPATIBLE
    for name, is_given in servers.items():
        by_seeds = seed_teacher is server and not name.startswith("--batch")
        if is_given and teacher is not server and not by_seeds:
            raise TeacherError(f"{name} is for --teacher {server}; the teacher {teacher} does not need it")


def _tell_batches(console: Console, written: "WrittenBatches", out: Path) -> None:
    """Print the files and the next step; exit code 1 if the budget left questions out."""
    for path in written.files:
        console.print(f"{path}", markup=False)
    console.print(
        f"{written.requests} requests written; the results of {written.waiting} written earlier are due.\n"
        "Have them run by the provider's batch interface or vLLM's run_batch, then read the results with --batch-in.",
        markup=False,
    )
    if written.over_budget:
        console.print(f"{written.over_budget} questions were left out: the budget does not allow them")
        raise typer.Exit(1)


def _tell_estimate(
    console: Console,
    estimated: tuple[TeachingEstimate, TeachingEstimate],
    bulk: Teacher,
    seeding: Seeding | None,
    prices: Prices,
    seed_prices: Prices,
    exact: bool,
) -> None:
    """Print the estimates of the seed teacher and of the bulk teacher."""
    strong, rest = estimated
    if seeding:
        console.print(summary(f"seeds by {seeding.teacher.name}", strong, seed_prices))
    console.print(summary(bulk.name, rest, prices))
    rule = "tokens read are counted by the model's tokenizer" if exact else f"a token for {BYTES_A_TOKEN} bytes"
    console.print(f"({rule}; repairs not counted; nothing was sent)")


def _conclude(console: Console, collected: Collected, out: Path, teacher: Teacher) -> None:
    """Print the result; exit code 1 if questions have no usable answer."""
    record, refusals = collected.record, collected.refusals
    console.print(f"{out}: {record.items} items, {record.users} users, by {teacher.name}", markup=False)
    if collected.unrecognised:
        console.print(
            f"{collected.unrecognised} items were not recognised: what is written of them is inferred from their texts"
        )
    left_out = _tell_doubtful(console, collected.doubtful, out)
    if refusals:
        silent = sum(one.raw is None for one in refusals)
        console.print(
            f"{len(refusals)} questions have no usable answer: {len(refusals) - silent} were answered wrongly, "
            f"{silent} not at all; {out / QUARANTINE_FILE} says why.\nThe knowledge can be used without them. Started "
            "again, `msd teach` asks those that were not answered; remove the line of another to have it asked again.",
            markup=False,
        )
        if repairable := sum(one.repairable for one in refusals):
            console.print(f"{repairable} of them get a repair question when they are asked again.")
    if refusals or left_out:
        raise typer.Exit(1)


def _tell_doubtful(console: Console, doubtful: Sequence[Doubtful], out: Path) -> int:
    """Print the counts of doubtful answers by doubt, and return how many were left out."""
    left_out = sum(one.left_out for one in doubtful)
    if doubtful:
        counts = Counter(doubt for one in doubtful for doubt in one.doubts)
        console.print(
            f"{len(doubtful)} answers do not pass all checks, {left_out} were left out ({out / DOUBTFUL_FILE}):",
            markup=False,
        )
        for doubt, count in counts.most_common():
            console.print(f"  {count}: {doubt}", markup=False)
    return left_out
