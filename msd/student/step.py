"""The distilling step: dataset and knowledge in, a student's folder out; skipped if done, continued if cut short."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from msd.contract.files import sha256_file, write_bytes_atomic
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.bag import Bag
from msd.student.distill import Course, DistillConfig, Distiller, objective
from msd.student.encoder import Student, encode_texts, load_student, new_student, save_student
from msd.student.lessons import Advance, Lessons, all_lessons, encode_targets, teachers_words
from msd.student.record import FORMAT, HEADS, StudentError, Vectors
from msd.student.states import States
from msd.student.untaught import UNTAUGHT_FILE, save_untaught
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors, save_vectors
from msd.teachers.knowledge import KNOWLEDGE_FILES, load_knowledge

WORK_FOLDER = ".work"
_MOST_UNTAUGHT = 1_000


def distill(dataset_folder: Path, knowledge_folder: Path, out: Path, config: DistillConfig, advance: Advance) -> bool:
    """Fills `out` with a student and its vectors; False if it already held them.

    Raises DatasetError, TeacherError or StudentError for inputs that are missing or wrong, or a folder of other things.
    """
    start = time.perf_counter()
    dataset = load_dataset(dataset_folder)
    base = load_knowledge(knowledge_folder, dataset.config.name)
    _check_out(out)
    files = [sha256_file(knowledge_folder / name) for name in KNOWLEDGE_FILES]
    run = fingerprint_of(FORMAT, dataset.fingerprint, files, asdict(config))
    if is_done(out, run) and _is_whole(out):
        return False
    (out / STEP_FILE).unlink(missing_ok=True)
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    student = new_student()
    lessons = all_lessons(student_texts(dataset), base, config.holdout, config.seed)
    # The items' words alone set the directions, whatever the users are like.
    bag = Bag(teachers_words(lessons[0].knowledge))
    courses = [
        _course(student, bag, level, config, work / f"{level.level}.safetensors", run, advance) for level in lessons
    ]
    distiller = Distiller(student, courses, config, work, run)
    progress = distiller.run(advance)
    metrics = {
        "best_epoch": progress.best_epoch,
        "history": [epoch.model_dump() for epoch in progress.history],
        "knowledge": progress.figures,
    }
    student.record = student.record.model_copy(update={"objective": objective(config), "metrics": metrics})
    fingerprint = _save(student, courses, out)
    items = lessons[0]
    save_untaught(out, fingerprint, distiller.untaught, [items.ids[row] for row in items.rows[items.held]])
    mark_done(out, run, time.perf_counter() - start)
    shutil.rmtree(work)
    return True


def encode_untaught(dataset_folder: Path, out: Path, advance: Advance) -> bool:
    """Fills `out` with the student as it is before any training, and its vectors; False if it already held them.

    For texts that no teacher has written of. Raises DatasetError or StudentError.
    """
    start = time.perf_counter()
    dataset = load_dataset(dataset_folder)
    _check_out(out)
    run = fingerprint_of(FORMAT, dataset.fingerprint, "untaught")
    if is_done(out, run) and _is_whole(out):
        return False
    texts = [{name: text for name, text in named.items() if text.strip()} for named in student_texts(dataset)]
    if not texts[0]:
        raise StudentError(
            f"no item of {dataset_folder} has a text: train without a student, msd train DATASET OUT --no-semantics"
        )
    (out / STEP_FILE).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    student, done = new_student(), 0

    def encoded(named: dict[str, str]) -> LevelVectors:
        return LevelVectors(list(named), encode_texts(student, list(named.values()), on_batch=count))

    def count(batch: int) -> None:
        nonlocal done
        done += batch
        advance("encoding the texts", done, sum(map(len, texts)), "")

    items, users = map(encoded, texts)
    fingerprint = save_student(student, out)
    save_vectors(StudentVectors(fingerprint, items, users), out)
    # It was taught nothing, so that each text is as new to it as any.
    save_untaught(out, fingerprint, {}, items.ids[:_MOST_UNTAUGHT])
    mark_done(out, run, time.perf_counter() - start)
    return True


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StudentError(f"{out} is a file; name a folder for the student")
    own = ("student.json", WORK_FOLDER)
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in own):
        raise StudentError(f"{out} holds other things than a student; name an empty or a new folder")


def _is_whole(out: Path) -> bool:
    try:
        load_vectors(out)
        load_student(out)
    except StudentError:
        return False
    return (out / UNTAUGHT_FILE).is_file()


def _course(
    student: Student, bag: Bag, lessons: Lessons, config: DistillConfig, kept: Path, run: str, advance: Advance
) -> Course:
    targets = _kept_targets(kept, run)
    if targets is None:
        targets = encode_targets(student, lessons, advance)
        targets[:, HEADS["words"]] = bag.coordinates(teachers_words(lessons.knowledge))
        write_bytes_atomic(kept, save({run: targets}))
    done = 0

    def count(batch: int) -> None:
        nonlocal done
        done += batch
        advance(f"reading the texts of {lessons.level}", done, len(lessons.texts), "")

    return Course(lessons, targets, States(student, lessons.texts, config.frozen_layers, count))


def _kept_targets(path: Path, run: str) -> Vectors | None:
    """The targets that an earlier start of the same run has encoded."""
    try:
        return load_file(path).get(run)
    except (OSError, SafetensorError):
        return None


def _save(student: Student, courses: list[Course], out: Path) -> str:
    items, users = (LevelVectors(c.lessons.ids, c.states.all_vectors(student)) for c in courses)
    fingerprint = save_student(student, out)
    save_vectors(StudentVectors(fingerprint, items, users), out)
    return fingerprint
