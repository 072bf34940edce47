"""Collection of a teacher's answers about a whole dataset. Each answer is stored on arrival, and never asked for
again."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from msd.contract.files import write_bytes_atomic
from msd.dataset.load import Dataset
from msd.step import fingerprint_of, mark_done
from msd.teachers.budget import BudgetSpent
from msd.teachers.checks import Doubtful, weigh
from msd.teachers.journal import QUARANTINE_FILE, Journal, Refusal, claim, key_of
from msd.teachers.knowledge import KNOWLEDGE_FILES, RECORD_FILE, Knowledge, TeacherError, TeachRecord
from msd.teachers.prompts import messages, usage_of
from msd.teachers.teacher import LEVELS, Answered, Failed, Question, Reply, Teacher, Usage, questions_of

DOUBTFUL_FILE = "doubtful.jsonl"
# After this many unanswered questions in a row, the fault is not in the questions.
_SILENCES = 10
# Number of answers from which an answer's length is estimated.
_ENOUGH = 10


class QuestionsOpen(TeacherError):
    """The teacher has left questions open, to be asked by another run."""


@dataclass(frozen=True)
class Stage:
    """Progress of one round of questions. `usage`: of this run only."""

    name: str
    done: int
    total: int
    usage: Usage = Usage()


Progress = Callable[[Stage], None]


@dataclass(frozen=True)
class Collected:
    """Result of a run: the record, the questions without a usable answer, the answers that fail a content check, and
    the number of items that the teacher did not recognise, whose knowledge is inferred from their texts."""

    record: TeachRecord
    refusals: list[Refusal]
    doubtful: list[Doubtful]
    unrecognised: int


@dataclass(frozen=True)
class TeachingEstimate:
    """Number of questions to ask a teacher, and their expected tokens.

    `measured`: number of the teacher's answers in the folder that give the length of an answer; 0: the rule of thumb.
    """

    questions: int
    usage: Usage
    measured: int = 0


def collect_knowledge(
    dataset: Dataset, teacher: Teacher, folder: Path, progress: Progress, limit: int | None = None
) -> Collected:
    """Fill `folder` with the answers and, last, teach.json; resume an earlier run. `limit`: see `questions_of`.

    Raises TeacherError if the teacher fails, if no answer is usable, or if the folder has other content; QuestionsOpen
    if the teacher has left questions open.
    """
    start = time.perf_counter()
    levels = questions_of(dataset, limit)
    try:
        claim(folder)
        with Journal(folder) as journal:
            left = []
            for level, questions in zip(LEVELS, levels, strict=True):
                if number := _ask(teacher, questions, journal, folder, f"{level}s", progress):
                    left.append(f"{number} questions about {level}s")
            if left:
                raise QuestionsOpen(f"{teacher.name} left {' and '.join(left)} open; run `msd teach` again")
            return _finish(dataset, teacher, journal, folder, levels, start)
    except OSError as error:
        raise TeacherError(f"{folder} cannot be written: {error}") from None


def estimate(dataset: Dataset, teacher: Teacher, folder: Path, limit: int | None = None) -> TeachingEstimate:
    """Return what is still due in `folder`, without repair questions. Sends and writes nothing."""
    journal = Journal(folder)
    groups = _group_by_key(teacher, [question for questions in questions_of(dataset, limit) for question in questions])
    usages = [usage_of(messages(group[0])) for key, group in groups.items() if not journal.settled(key)]
    usage = sum(usages, Usage())
    answers = [entry for entry in journal.answers.values() if entry.teacher == teacher.name and entry.written]
    if len(answers) < _ENOUGH:
        return TeachingEstimate(len(usages), usage)
    written = round(len(usages) * fmean(entry.written for entry in answers))
    return TeachingEstimate(len(usages), Usage(usage.read, written), len(answers))


def _group_by_key(teacher: Teacher, questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Group questions that share an answer."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(key_of(teacher, question), []).append(question)
    return groups


def _ask(
    teacher: Teacher, questions: Sequence[Question], journal: Journal, folder: Path, name: str, progress: Progress
) -> int:
    """Ask what is not settled yet, each input once, and store every reply before the next is awaited.

    Return the number of questions that the teacher left open.
    """
    groups = _group_by_key(teacher, questions)
    due = {group[0]: (key, group) for key, group in groups.items() if not journal.settled(key)}
    stage = Stage(name, len(questions) - sum(len(group) for _, group in due.values()), len(questions))
    progress(stage)
    if not due:
        return 0
    (folder / RECORD_FILE).unlink(missing_ok=True)
    silences = 0
    replies = teacher.answer(list(due))
    while (reply := _next(replies, stage)) is not None:
        if reply.question not in due:
            raise TeacherError(
                f"{teacher.name} answered for {reply.question.id!r}, which was not asked, or not once only"
            )
        key, group = due.pop(reply.question)
        if isinstance(reply, Answered):
            journal.keep(key, teacher, reply)
        else:
            journal.refuse(key, reply, group)
        stage = replace(stage, done=stage.done + len(group), usage=stage.usage + reply.usage)
        progress(stage)
        silences = silences + 1 if isinstance(reply, Failed) and reply.raw is None else 0
        if silences == _SILENCES and isinstance(reply, Failed):
            raise TeacherError(f"{teacher.name} left {silences} questions in a row without an answer: {reply.reason}")
    return len(due)


def _next(replies: Iterator[Reply], stage: Stage) -> Reply | None:
    try:
        return next(replies, None)
    except BudgetSpent as error:
        raise TeacherError(
            f"{error}; {stage.done} of {stage.total} questions of the round {stage.name!r} are answered and kept: run "
            "`msd teach` again with another --budget to go on"
        ) from None


def _finish(
    dataset: Dataset,
    teacher: Teacher,
    journal: Journal,
    folder: Path,
    levels: Sequence[Sequence[Question]],
    start: float,
) -> Collected:
    """Write the knowledge files in the questions' order, then the record; write nothing if they are right already."""
    keys = {question: key_of(teacher, question) for questions in levels for question in questions}
    kept: list[list[Knowledge]] = []
    doubtful: list[Doubtful] = []
    for questions in levels:
        answered = [(question, entry) for question in questions if (entry := journal.answers.get(keys[question]))]
        # Questions with the same text share an answer, which has the ID of the first.
        answers, doubts = weigh([(one, entry.knowledge.model_copy(update={"id": one.id})) for one, entry in answered])
        kept.append(answers)
        doubtful += doubts
    refused = set(keys.values()) - journal.answers.keys()
    refusals = list(
        {(refusal.level, refusal.id): refusal for refusal in journal.refusals if refusal.key in refused}.values()
    )
    left_out = [one.id for one in doubtful if one.left_out]
    _write_doubtful(folder, doubtful)
    if keys and not any(kept):
        name = QUARANTINE_FILE if refusals else DOUBTFUL_FILE
        why = f" ({refusals[0].reason})" if refusals else ""
        raise TeacherError(f"none of {len(refusals) + len(left_out)} answers can be used{why}; see {folder / name}")
    record = _record(dataset, teacher, journal, list(keys.values()), [len(answers) for answers in kept])
    files = {
        name: "".join(f"{answer.model_dump_json()}\n" for answer in answers).encode()
        for name, answers in zip(KNOWLEDGE_FILES, kept, strict=True)
    }
    files[RECORD_FILE] = (record.model_dump_json(indent=2) + "\n").encode()
    if any(not (folder / name).is_file() or (folder / name).read_bytes() != files[name] for name in files):
        (folder / RECORD_FILE).unlink(missing_ok=True)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
        mark_done(folder, fingerprint_of(*keys.values(), left_out), time.perf_counter() - start)
    return Collected(record, refusals, doubtful, sum(not one.known for one in kept[0]))


def _record(
    dataset: Dataset, teacher: Teacher, journal: Journal, keys: Sequence[str], counts: Sequence[int]
) -> TeachRecord:
    """Return the record: the answers' teacher, models, sampling and days, as far as these were noted."""
    entries = [journal.answers[key] for key in keys if key in journal.answers]
    days = sorted({entry.day for entry in entries if entry.day})
    sampling = {json.dumps(entry.sampling, sort_keys=True): entry.sampling for entry in entries if entry.sampling}
    return TeachRecord(
        teacher=teacher.name,
        prompt_version=teacher.prompt_version,
        dataset=dataset.config.name,
        items=counts[0],
        users=counts[1],
        provenance=teacher.provenance,
        models=tuple(sorted({entry.model for entry in entries if entry.model})),
        sampling=tuple(sampling[key] for key in sorted(sampling)),
        first_day=days[0] if days else "",
        last_day=days[-1] if days else "",
        prompt_sha256=teacher.prompt_sha256,
    )


def _write_doubtful(folder: Path, doubtful: Sequence[Doubtful]) -> None:
    """Write one line per doubtful answer, for people; no file if there are none."""
    path = folder / DOUBTFUL_FILE
    content = "".join(f"{json.dumps(asdict(one))}\n" for one in doubtful).encode()
    if not content:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != content:
        write_bytes_atomic(path, content)
