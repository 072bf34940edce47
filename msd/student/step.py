"""Distilling step: dataset and knowledge in, a student's folder out. Skipped if done."""

import io
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from msd.contract.files import sha256_file, write_bytes_atomic
from msd.contract.words import BagOfWords
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done
from msd.student.distill import DistillConfig, fit_words, measure
from msd.student.encoder import Student, encode_texts, load_student, new_student, save_student, shorten
from msd.student.lessons import LEVELS, Lessons, all_lessons, fit_bag, teachers_words
from msd.student.record import FORMAT, HEADS, RECORD_FILE, VECTOR_DIM, WEIGHTS_FILE, StudentError
from msd.student.vectors import (
    UNTAUGHT_FILE,
    WORDS_FILE,
    LevelVectors,
    StudentVectors,
    load_vectors,
    load_words,
    save_untaught,
    save_vectors,
    save_words,
)
from msd.teachers.knowledge import KNOWLEDGE_FILES, load_knowledge

_MOST_UNTAUGHT = 1_000
_ENCODED, _KEPT_TOGETHER = "encoded", 1_024
"""Folder of the texts that an interrupted run has encoded, and how many of them a file has."""
Advance = Callable[[str, int, int], None]  # step's name, done, total


def distill(
    dataset_folder: Path,
    knowledge_folder: Path | None,
    out: Path,
    config: DistillConfig,
    advance: Advance,
    student: Student | None = None,
) -> bool:
    """Fill `out` with a student and its vectors; return False if it already has them. Without knowledge all words are
    zero. `student`: the one to teach, by default `new_student()`.

    Raises DatasetError, TeacherError or StudentError if inputs are missing or invalid, or the folder has other content.
    """
    start = time.perf_counter()
    dataset = load_dataset(dataset_folder)
    base = load_knowledge(knowledge_folder, dataset.config.name) if knowledge_folder else None
    check_out(out, (WEIGHTS_FILE, RECORD_FILE, _ENCODED), "student", StudentError)
    inputs: tuple[object, ...] = "untaught", config.layers, config.users
    if knowledge_folder:
        inputs = [sha256_file(knowledge_folder / name) for name in KNOWLEDGE_FILES], asdict(config)
    run = fingerprint_of(FORMAT, dataset.fingerprint, *inputs)
    if is_done(out, run) and _is_whole(out, bool(base)):
        return False
    read = student_texts(dataset) if config.users else (student_texts(dataset)[0], {})
    texts = [{id_: text for id_, text in named.items() if text.strip()} for named in read]
    if not base and not texts[0]:
        raise StudentError(
            f"no item of {dataset_folder} has a text: train without a student, msd train DATASET OUT --no-semantics"
        )
    lessons = all_lessons(texts, base, config.holdout, config.seed) if base else []
    for name in (STEP_FILE, WORDS_FILE):
        (out / name).unlink(missing_ok=True)
    (out / _ENCODED).mkdir(parents=True, exist_ok=True)
    student = student or new_student()
    if config.layers:
        shorten(student, config.layers)
    vectors = [
        _encoded(student, named, level, advance, out / _ENCODED) for named, level in zip(texts, LEVELS, strict=True)
    ]
    bag: BagOfWords | None = None
    if lessons:
        # Only the items' words define the directions, independently of the users.
        bag = fit_bag(teachers_words(lessons[0].knowledge))
        rehearsed = _teach(student, vectors, lessons, bag, config)
        held_out = [lessons[0].ids[row] for row in np.flatnonzero(lessons[0].held)]
    else:
        # The student is untaught, so all texts are equally new to it.
        rehearsed, held_out = {}, vectors[0].ids[:_MOST_UNTAUGHT]
    fingerprint = save_student(student, out)
    save_vectors(StudentVectors(fingerprint, *vectors), out)
    save_untaught(out, fingerprint, rehearsed, held_out)
    if bag:
        save_words(bag, fingerprint, out)
    shutil.rmtree(out / _ENCODED)
    mark_done(out, run, time.perf_counter() - start)
    return True


def _teach(
    student: Student, vectors: list[LevelVectors], lessons: list[Lessons], bag: BagOfWords, config: DistillConfig
) -> dict[str, Tensor]:
    """Fit the student to all lessons, in place, and write the words into the vectors: the teacher's own for taught
    texts, the student's for the others. Return the weights of a rehearsal without the held-out lessons, which is
    measured."""
    meaning_part, words_part = HEADS["meaning"], HEADS["words"]
    targets = [bag.coordinates(teachers_words(level.knowledge)) for level in lessons]
    rows = [
        np.asarray([level.rows[id_] for id_ in taught.ids], np.int64)
        for level, taught in zip(vectors, lessons, strict=True)
    ]
    meaning = [level.vectors[taught, meaning_part] for level, taught in zip(vectors, rows, strict=True)]
    kept = np.concatenate([~level.held for level in lessons])
    inputs, outputs = np.concatenate(meaning), np.concatenate(targets)
    fit_words(student, inputs[kept], outputs[kept], config.ridge)
    rehearsed = {name: value.clone() for name, value in student.state_dict().items() if name.startswith("words.")}
    metrics = {
        level.level: {
            part: measure(student.words_of(texts), words, np.flatnonzero(which))
            for part, which in (("held out", level.held), ("fitted", ~level.held))
        }
        for level, texts, words in zip(lessons, meaning, targets, strict=True)
    }
    student.record = student.record.model_copy(update={"metrics": metrics})
    fit_words(student, inputs, outputs, config.ridge)
    for level, taught, words in zip(vectors, rows, targets, strict=True):
        level.vectors[:, words_part] = student.words_of(level.vectors[:, meaning_part])
        written = words.any(axis=1)
        level.vectors[taught[written], words_part] = words[written]
    return rehearsed


def _is_whole(out: Path, is_taught: bool) -> bool:
    try:
        load_vectors(out)
        load_student(out)
        bag = load_words(out)
    except StudentError:
        return False
    return (out / UNTAUGHT_FILE).is_file() and (bag is not None or not is_taught)


def _encoded(student: Student, texts: Mapping[str, str], level: str, advance: Advance, kept: Path) -> LevelVectors:
    """Return the student's vectors of texts by ID. What is encoded is kept in a folder, where a later run of the
    same student and texts resumes."""
    vectors, done, record = np.zeros((len(texts), VECTOR_DIM), np.float32), 0, student.record.model_dump()

    def count(batch: int) -> None:
        nonlocal done
        done += batch
        advance(f"encoding the texts of {level}", done, len(texts))

    for start in range(0, len(texts), _KEPT_TOGETHER):
        some = list(texts.values())[start : start + _KEPT_TOGETHER]
        file = kept / f"{fingerprint_of(record, some)}.npy"
        with suppress(OSError, ValueError, EOFError):  # there is none yet, or it is damaged
            vectors[start : start + len(some)] = np.load(file, allow_pickle=False)
            count(len(some))
            continue
        vectors[start : start + len(some)] = encode_texts(student, some, on_batch=count)
        buffer = io.BytesIO()
        np.save(buffer, vectors[start : start + len(some)], allow_pickle=False)
        write_bytes_atomic(file, buffer.getvalue())
    return LevelVectors(list(texts), vectors)
