"""Distilling step: dataset and knowledge in, a student's folder out. Skipped if done; resumed if interrupted."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from msd.contract.files import sha256_file
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.texts import most_shown, student_texts
from msd.duration import Machine, about, distilling, encoding, tokens_of
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.distill import Course, DistillConfig, Distiller, objective
from msd.student.encoder import Student, encode_texts, load_student, new_student, save_student, shorten
from msd.student.lessons import (
    LEVELS,
    Advance,
    BagOfWords,
    Lessons,
    all_lessons,
    counter,
    encode_targets,
    target_texts,
    teachers_words,
)
from msd.student.record import FORMAT, HEADS, StudentError
from msd.student.states import TextStates
from msd.student.vectors import UNTAUGHT_FILE, LevelVectors, StudentVectors, load_vectors, save_untaught, save_vectors
from msd.teachers.knowledge import KNOWLEDGE_FILES, KnowledgeBase, load_knowledge

WORK_FOLDER = ".work"
_MOST_UNTAUGHT = 1_000
Tell = Callable[[str], None]
Texts = tuple[dict[str, str], dict[str, str]]  # of items and of users, by ID


def distill(
    dataset_folder: Path,
    knowledge_folder: Path | None,
    out: Path,
    config: DistillConfig,
    advance: Advance,
    tell: Tell = lambda _: None,
) -> bool:
    """Fill `out` with a student and its vectors; return False if it already has them. `tell` gets the plan, with its
    duration. Without knowledge the student stays untrained.

    Raises DatasetError, TeacherError or StudentError if inputs are missing or invalid, or the folder has other content.
    """
    start = time.perf_counter()
    dataset = load_dataset(dataset_folder)
    base = load_knowledge(knowledge_folder, dataset.config.name) if knowledge_folder else None
    _check_out(out)
    inputs: tuple[object, ...] = "untaught", config.layers
    if knowledge_folder:
        inputs = [sha256_file(knowledge_folder / name) for name in KNOWLEDGE_FILES], asdict(config)
    run = fingerprint_of(FORMAT, dataset.fingerprint, *inputs)
    if is_done(out, run) and _is_whole(out):
        return False
    texts = student_texts(dataset)
    if not base and not any(text.strip() for text in texts[0].values()):
        raise StudentError(
            f"no item of {dataset_folder} has a text: train without a student, msd train DATASET OUT --no-semantics"
        )
    (out / STEP_FILE).unlink(missing_ok=True)
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    student = new_student()
    if config.layers:
        shorten(student, config.layers)
    if base:
        lessons = _lessons(dataset, texts, base, config)
        tell(_plan(texts, lessons, config))
        distiller = _teach(student, lessons, config, work, run, advance)
        courses, rehearsed = distiller.courses, distiller.untaught
        held_out = [lessons[0].ids[row] for row in np.flatnonzero(lessons[0].held)]
        vectors = [_vectors(student, *level, advance) for level in zip(texts, courses, strict=True)]
    else:
        written = [text for named in texts for text in named.values() if text.strip()]
        duration = about(encoding(Machine.measured(), tokens_of(written)))
        tell(f"{len(written):,} texts to encode: {duration}")
        vectors = [_encoded(student, named, level, advance) for named, level in zip(texts, LEVELS, strict=True)]
        # The student is untaught, so all texts are equally new to it.
        rehearsed, held_out = {}, vectors[0].ids[:_MOST_UNTAUGHT]
    fingerprint = save_student(student, out)
    save_vectors(StudentVectors(fingerprint, *vectors), out)
    save_untaught(out, fingerprint, rehearsed, held_out)
    mark_done(out, run, time.perf_counter() - start)
    shutil.rmtree(work)
    return True


def _teach(
    student: Student, lessons: list[Lessons], config: DistillConfig, work: Path, run: str, advance: Advance
) -> Distiller:
    # Only the items' words define the directions, independently of the users.
    bag = BagOfWords(teachers_words(lessons[0].knowledge))
    courses = [_course(student, bag, level, config, advance) for level in lessons]
    distiller = Distiller(student, courses, config, work, run)
    progress = distiller.run(advance)
    metrics = {
        "best_epoch": progress.best_epoch,
        "history": [epoch.model_dump() for epoch in progress.history],
        "knowledge": progress.figures,
    }
    student.record = student.record.model_copy(update={"objective": objective(config), "metrics": metrics})
    return distiller


def _lessons(dataset: Dataset, texts: Texts, base: KnowledgeBase, config: DistillConfig) -> list[Lessons]:
    """Return what is taught: of all with a text and knowledge, those with the most impressions."""
    every = all_lessons(texts, base, config.holdout, config.seed)
    if max(len(one.ids) for one in every) <= config.limit:
        return every
    items, users = (dict(zip(one.ids, one.texts, strict=True)) for one in every)
    return all_lessons(most_shown(dataset, (items, users), config.limit), base, config.holdout, config.seed)


def _plan(texts: Texts, lessons: list[Lessons], config: DistillConfig) -> str:
    """Return the plan in words: amounts, and the maximum duration."""
    taught = [tokens_of(lesson.texts) for lesson in lessons]
    written = sum(tokens_of(part) for lesson in lessons for part in target_texts(lesson.knowledge))
    seconds = distilling(
        Machine.measured(),
        taught=(taught[0] / config.items_every, taught[1] / config.users_every),
        written=written,
        texts=sum(tokens_of(named.values()) for named in texts),
        epochs=config.epochs,
    )
    count = sum(map(len, texts))
    of = ", ".join(f"{len(lesson.ids):,} {lesson.level}" for lesson in lessons)
    told = f"{of} are taught, {count:,} texts encoded: {about(seconds)}"
    if max(len(lesson.ids) for lesson in lessons) == config.limit:
        return f"{told} (those with the most events are taught; --limit N, now {config.limit:,}, changes how many)"
    return told


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


def _course(student: Student, bag: BagOfWords, lessons: Lessons, config: DistillConfig, advance: Advance) -> Course:
    targets = encode_targets(student, lessons, advance)
    targets[:, HEADS["words"]] = bag.coordinates(teachers_words(lessons.knowledge))
    count = counter(f"reading the texts of {lessons.level}", len(lessons.texts), advance)
    return Course(lessons, targets, TextStates(student, lessons.texts, config.frozen_layers, count))


def _encoded(student: Student, texts: Mapping[str, str], level: str, advance: Advance) -> LevelVectors:
    """Return vectors of all texts that are not blank."""
    kept = {id_: text for id_, text in texts.items() if text.strip()}
    count = counter(f"encoding the texts of {level}", len(kept), advance)
    return LevelVectors(list(kept), encode_texts(student, list(kept.values()), on_batch=count))


def _vectors(student: Student, texts: Mapping[str, str], course: Course, advance: Advance) -> LevelVectors:
    """Return vectors of all texts that are not blank: of taught ones from their states, of others from the text."""
    taught = course.lessons.ids
    known = set(taught)
    untaught = {id_: text for id_, text in texts.items() if id_ not in known}
    others = _encoded(student, untaught, course.lessons.level, advance)
    vectors = np.concatenate([course.states.all_vectors(student), others.vectors])
    both = LevelVectors([*taught, *others.ids], vectors)
    order = [id_ for id_ in texts if id_ in both.rows]
    return LevelVectors(order, both.vectors[[both.rows[id_] for id_ in order]])
