"""Collection of a teacher's answers about a whole dataset. Each answer is stored on arrival, and never asked for
again."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from msd.contract.files import write_bytes_atomic
from msd.dataset.load import Dataset
from msd.step import fingerprint_of, mark_done
from msd.teachers.allowance import BudgetSpent
from msd.teachers.checks import Doubtful, weigh
from msd.teachers.journal import Journal, JournalEntry, Refusal, claim, key_of
from msd.teachers.knowledge import KNOWLEDGE_FILES, RECORD_FILE, Knowledge, TeacherError, TeachRecord
from msd.teachers.prompts import Example
from msd.teachers.seeds import Seeding, choose, load_seeds, refuse_seeds, save_seeds
from msd.teachers.share import WHOLE, Share
from msd.teachers.teacher import LEVELS, Answered, Failed, Question, Reply, Teacher, Usage, questions_of

DOUBTFUL_FILE = "doubtful.jsonl"
# After this many unanswered questions in a row, the fault is not in the questions.
_SILENCES = 10


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


def collect_knowledge(
    dataset: Dataset,
    teacher: Teacher,
    folder: Path,
    progress: Progress,
    seeding: Seeding | None = None,
    share: Share = WHOLE,
    strict: bool = False,
) -> Collected:
    """Fill `folder` with the answers and, last, teach.json; resume an earlier run.

    With `seeding`, its teacher answers a sample first, and `seeding.steer` makes the teacher of the rest. The sample is
    drawn from all questions, whatever the share. With `strict`, doubtful answers stay out of the knowledge. Raises
    TeacherError if the teacher fails, if no answer is usable, or if the folder has other content.
    """
    try:
        return _collect(dataset, teacher, folder, progress, seeding, share, strict)
    except OSError as error:
        raise TeacherError(f"{folder} cannot be written: {error}") from None


def _collect(
    dataset: Dataset,
    teacher: Teacher,
    folder: Path,
    progress: Progress,
    seeding: Seeding | None,
    share: Share,
    strict: bool,
) -> Collected:
    start = time.perf_counter()
    levels: Sequence[list[Question]] = questions_of(dataset)
    claim(folder)
    with Journal(folder) as journal:
        finder = finder_of(teacher, seeding, journal, folder, levels, progress)
        levels = share.of_levels(levels)
        left = []
        for level, questions in zip(LEVELS, levels, strict=True):
            due = [question for question in questions if finder.seed(question) is None]
            if number := _ask(finder.teacher, due, journal, folder, f"{level}s", progress):
                left.append(f"{number} questions about {level}s")
        if left:
            raise TeacherError(f"{teacher.name} left {' and '.join(left)} open; run `msd teach` again")
        return _finish(dataset, finder, folder, levels, strict, start)


def finder_of(
    teacher: Teacher,
    seeding: Seeding | None,
    journal: Journal,
    folder: Path,
    levels: Sequence[Sequence[Question]],
    progress: Progress,
) -> "Finder":
    """Return the lookup of answers by teacher. Ask for the folder's seeds if it has none."""
    if seeding is None:
        refuse_seeds(folder)
        return Finder(journal, teacher, None)
    return Finder(journal, seeding.steer(_seeds(seeding, journal, folder, levels, progress)), seeding.teacher)


@dataclass(frozen=True)
class Finder:
    """Lookup of answers: a seed's answer overrides that of the bulk teacher."""

    journal: Journal
    teacher: Teacher
    seeds_by: Teacher | None

    def seed(self, question: Question) -> Knowledge | None:
        """Return the seed teacher's answer, if it was asked."""
        return self._by(self.seeds_by, question) if self.seeds_by else None

    def knowledge(self, question: Question) -> Knowledge | None:
        """Return the knowledge under the question's ID."""
        return self.seed(question) or self._by(self.teacher, question)

    def keys(self, question: Question) -> Iterator[str]:
        """Yield the keys that the question's answer or refusal may have."""
        for teacher in (self.seeds_by, self.teacher):
            if teacher:
                yield key_of(teacher, question)

    def _by(self, teacher: Teacher, question: Question) -> Knowledge | None:
        entry = self.journal.answers.get(key_of(teacher, question))
        return entry.knowledge.model_copy(update={"id": question.id}) if entry else None

    def entry(self, question: Question) -> JournalEntry | None:
        """Return the question's answer with its source, under the ID of the first question with this text."""
        return next((one for key in self.keys(question) if (one := self.journal.answers.get(key))), None)


def group_by_key(teacher: Teacher, questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Group questions that share an answer."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(key_of(teacher, question), []).append(question)
    return groups


def _seeds(
    seeding: Seeding, journal: Journal, folder: Path, levels: Sequence[Sequence[Question]], progress: Progress
) -> tuple[Example, ...]:
    """Return the folder's seeds; ask for them if it has none."""
    known = load_seeds(folder, seeding.teacher)
    if known is not None:
        return known
    examples: list[Example] = []
    for level, questions in zip(LEVELS, levels, strict=True):
        chosen = choose(questions, seeding.number)
        if left := _ask(seeding.teacher, chosen, journal, folder, f"seeds: {level}s", progress):
            raise TeacherError(f"{seeding.teacher.name} left {left} seeds about {level}s open; run `msd teach` again")
        entries = [(one, journal.answers.get(key_of(seeding.teacher, one))) for one in chosen]
        found = [Example(level, one.text, entry.reasoning, entry.knowledge) for one, entry in entries if entry]
        if chosen and not found:
            raise TeacherError(f"{seeding.teacher.name} gave no usable seed about {level}s; see {folder}")
        examples += found
    save_seeds(folder, seeding.teacher, examples)
    return tuple(examples)


def _ask(
    teacher: Teacher, questions: Sequence[Question], journal: Journal, folder: Path, name: str, progress: Progress
) -> int:
    """Ask what is not settled yet, each input once, and store every reply before the next is awaited.

    Return the number of questions that the teacher left open.
    """
    groups = group_by_key(teacher, questions)
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
        _keep(journal, key, teacher, reply, group)
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


def _keep(journal: Journal, key: str, teacher: Teacher, reply: Reply, group: list[Question]) -> None:
    if isinstance(reply, Answered):
        journal.keep(key, teacher, reply)
    else:
        journal.refuse(key, reply, group)


def _finish(
    dataset: Dataset, finder: Finder, folder: Path, levels: Sequence[Sequence[Question]], strict: bool, start: float
) -> Collected:
    """Write the knowledge files in the questions' order, then the record; write nothing if they are right already."""
    asked = [question for questions in levels for question in questions]
    kept, doubtful = [], []
    for questions in levels:
        answers, doubts = weigh([(one, known) for one in questions if (known := finder.knowledge(one))], strict)
        kept.append(answers)
        doubtful += doubts
    keys = {key for question in asked if not finder.knowledge(question) for key in finder.keys(question)}
    refusals = list({(one.level, one.id): one for one in finder.journal.refusals if one.key in keys}.values())
    left_out = [one.id for one in doubtful if one.left_out]
    _write_doubtful(folder, doubtful)
    if asked and not any(kept):
        raise TeacherError(f"none of {len(refusals) + len(left_out)} answers can be used; see {folder}")
    record = _record(dataset, finder, asked, [len(answers) for answers in kept])
    files = {
        name: "".join(f"{one.model_dump_json()}\n" for one in answers).encode()
        for name, answers in zip(KNOWLEDGE_FILES, kept, strict=True)
    }
    files[RECORD_FILE] = (record.model_dump_json(indent=2) + "\n").encode()
    if any(not (folder / name).is_file() or (folder / name).read_bytes() != files[name] for name in files):
        (folder / RECORD_FILE).unlink(missing_ok=True)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
        fingerprint = fingerprint_of(*(sorted(finder.keys(one)) for one in asked), left_out)
        mark_done(folder, fingerprint, time.perf_counter() - start)
    return Collected(record, refusals, doubtful, sum(not one.known for one in kept[0]))


def _record(dataset: Dataset, finder: Finder, asked: Sequence[Question], counts: Sequence[int]) -> TeachRecord:
    """Return the record: the answers' teacher, models, sampling and days, as far as these were noted."""
    entries = [entry for question in asked if (entry := finder.entry(question))]
    days = sorted({entry.day for entry in entries if entry.day})
    sampling = {json.dumps(entry.sampling, sort_keys=True): entry.sampling for entry in entries if entry.sampling}
    return TeachRecord(
        teacher=finder.teacher.name,
        prompt_version=finder.teacher.prompt_version,
        dataset=dataset.config.name,
        items=counts[0],
        users=counts[1],
        provenance=finder.teacher.provenance,
        models=tuple(sorted({entry.model for entry in entries if entry.model})),
        sampling=tuple(sampling[key] for key in sorted(sampling)),
        first_day=days[0] if days else "",
        last_day=days[-1] if days else "",
        prompt_sha256=finder.teacher.prompt_sha256,
    )


def _write_doubtful(folder: Path, doubtful: Sequence[Doubtful]) -> None:
    """Write one line per doubtful answer, for people; no file if there are none."""
    path = folder / DOUBTFUL_FILE
    content = "".join(f"{json.dumps(asdict(one))}\n" for one in doubtful).encode()
    if not content:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != content:
        write_bytes_atomic(path, content)
