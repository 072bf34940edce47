"""Command `msd teach`: a teacher writes what it knows of a dataset's items and users."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from msd.dataset.config import DatasetConfig
from msd.dataset.load import load_dataset
from msd.report import bar
from msd.teachers.budget import Budget
from msd.teachers.checks import Doubtful
from msd.teachers.collect import (
    DOUBTFUL_FILE,
    Collected,
    QuestionsOpen,
    Stage,
    TeachingEstimate,
    collect_knowledge,
    estimate,
)
from msd.teachers.journal import QUARANTINE_FILE
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import ANSWER_TOKENS, BYTES_A_TOKEN
from msd.teachers.recorded import RecordedTeacher
from msd.teachers.teacher import ModelServer, Prices, Teacher, Usage

app = typer.Typer(add_completion=False)


class Backend(StrEnum):
    """The teachers to choose from."""

    RECORDED = "recorded"
    OPENAI_COMPATIBLE = "openai_compatible"


def _price(tokens: str) -> Any:  # noqa: ANN401 - the type of typer's options
    return typer.Option(min=0.0, help=f"Price per million tokens that the teacher {tokens}.")


@app.command("teach")
def teach(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the knowledge.")],
    teacher: Annotated[Backend, typer.Option(help="Kind of teacher.")] = Backend.RECORDED,
    url: Annotated[str | None, typer.Option(help="Address of the server, including /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name on the server.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Concurrent requests to a server.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.001, help="Timeout of one reply, in seconds.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per answer.")] = 1024,
    budget: Annotated[
        float | None, typer.Option(min=0.0, help="Stop before this run could cost more; needs prices.")
    ] = None,
    price_in: Annotated[float, _price("reads")] = 0.0,
    price_out: Annotated[float, _price("writes")] = 0.0,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask only about a sample of at most N items and N users.")
    ] = None,
    batches: Annotated[
        bool, typer.Option("--batches", help="Send nothing; read results from and write requests to OUT/batches.")
    ] = False,
    only_estimate: Annotated[bool, typer.Option("--estimate", help="Ask nothing; estimate tokens and cost.")] = False,
) -> None:
    """Ask a teacher what it knows of each item and user. If interrupted, run it again to resume."""
    _refuse_misfits(teacher, {"url": url, "model": model}, {"--batches": batches, "--budget": budget is not None})
    if budget is not None and not price_out:
        raise TeacherError("--budget needs the prices of the teacher: --price-in and --price-out")
    if only_estimate and (batches or teacher is Backend.RECORDED):
        raise TeacherError(f"--estimate needs --teacher {Backend.OPENAI_COMPATIBLE}, and no --batches")
    data, prices = load_dataset(dataset), Prices(price_in, price_out)
    server = ModelServer(url or "", model or "", concurrency, timeout, max_tokens=max_tokens)
    asked = _teacher_of(teacher, data.config, server, Budget(budget, prices), out if batches else None)
    console = Console(soft_wrap=True, highlight=False)
    if only_estimate:
        _print_estimate(console, asked.name, estimate(data, asked, out, limit), prices)
        return
    collected = None
    try:
        with _progress(console, prices) as show:
            collected = collect_knowledge(data, asked, out, show, limit)
    except QuestionsOpen:
        if not batches:
            raise
    if batches:
        _print_batches(console, asked)
    if collected:
        _conclude(console, collected, out, asked)


def _teacher_of(
    backend: Backend, config: DatasetConfig, server: ModelServer, budget: Budget, batches: Path | None
) -> Teacher:
    if backend is Backend.RECORDED:
        return RecordedTeacher(config)
    try:
        if batches:
            from msd.teachers.batch_files import BatchTeacher

            return BatchTeacher(server, budget, batches)
        from msd.teachers.openai_compatible import OpenAICompatibleTeacher
    except ModuleNotFoundError as error:
        raise TeacherError(
            f"the teacher {backend} needs the module {error.name!r}: pip install 'msd-ctr[train,teach]'"
        ) from error
    return OpenAICompatibleTeacher(server, os.environ, budget)


def _refuse_misfits(teacher: Backend, needed: dict[str, str | None], of_servers: dict[str, bool]) -> None:
    """Raise TeacherError for options that are missing, or that are not for this teacher."""
    is_server = teacher is Backend.OPENAI_COMPATIBLE
    for name, value in needed.items():
        if is_server != bool(value):
            raise TeacherError(f"the teacher {teacher} {'needs' if is_server else 'takes no'} --{name}")
    for name, is_given in of_servers.items():
        if is_given and not is_server:
            raise TeacherError(f"{name} is for --teacher {Backend.OPENAI_COMPATIBLE}; {teacher} does not need it")


@contextmanager
def _progress(console: Console, prices: Prices) -> Iterator[Callable[[Stage], None]]:
    """Show one progress bar per round of questions, with rate, tokens and cost."""
    began: dict[str, tuple[int, float]] = {}
    with bar(console, each=True) as heard:

        def show(stage: Stage) -> None:
            before, start = began.setdefault(stage.name, (stage.done, time.perf_counter()))
            figures = ""
            if stage.usage != Usage():
                rate = (stage.done - before) / max(time.perf_counter() - start, 1e-9)
                figures = f"{rate:.2g}/s, {_tokens_and_cost(stage.usage, prices)}"
            heard(stage.name, stage.done, stage.total, figures)

        yield show


def _tokens_and_cost(usage: Usage, prices: Prices) -> str:
    cost = f", cost {prices.cost(usage):.4f}" if prices != Prices() else ""
    return f"{usage.read:,} tokens in, {usage.written:,} out{cost}"


def _print_estimate(console: Console, name: str, due: TeachingEstimate, prices: Prices) -> None:
    length = f"an answer as long as the {due.measured} so far" if due.measured else f"{ANSWER_TOKENS} an answer"
    console.print(
        f"{name}: {due.questions:,} questions, about {_tokens_and_cost(due.usage, prices)} ({length})\n"
        f"(a token for {BYTES_A_TOKEN} bytes; repairs not counted; nothing was sent)"
    )


def _print_batches(console: Console, batches: Teacher) -> None:
    """Print the faults of results, and the files to run; exit code 1 if the budget left questions out."""
    from msd.teachers.batch_files import BatchTeacher

    assert isinstance(batches, BatchTeacher)
    batches.put_away()
    faults = [f"{place}: {fault}" for place, fault in batches.faults.items()]
    more = [f"… and {len(faults) - 5} more"] if len(faults) > 5 else []
    for line in (*faults[:5], *more, *batches.files):
        console.print(f"{line}", markup=False)
    if batches.written or batches.waiting:
        console.print(
            f"{batches.written} requests written; the results of {batches.waiting} written earlier are due.\n"
            "Have them run by the provider's batch interface or vLLM's run_batch, put the results of 001.jsonl into "
            "001.results.jsonl beside it, and run this command again.",
            markup=False,
        )
    if batches.over_budget:
        console.print(f"{batches.over_budget} questions were left out: the budget does not allow them")
        raise typer.Exit(1)


def _conclude(console: Console, collected: Collected, out: Path, teacher: Teacher) -> None:
    """Print the result; exit code 1 if questions have no usable answer."""
    record, refusals = collected.record, collected.refusals
    console.print(f"{out}: {record.items} items, {record.users} users, by {teacher.name}", markup=False)
    if collected.unrecognised:
        console.print(
            f"{collected.unrecognised} items were not recognised: what is written of them is inferred from their texts"
        )
    left_out = _print_doubtful(console, collected.doubtful, out)
    if refusals:
        silent = sum(refusal.raw is None for refusal in refusals)
        console.print(
            f"{len(refusals)} questions have no usable answer: {len(refusals) - silent} were answered wrongly, "
            f"{silent} not at all; {out / QUARANTINE_FILE} says why.\nThe knowledge can be used without them. Started "
            "again, `msd teach` asks those that were not answered; remove the line of another to have it asked again.",
            markup=False,
        )
    if refusals or left_out:
        raise typer.Exit(1)


def _print_doubtful(console: Console, doubtful: Sequence[Doubtful], out: Path) -> int:
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
