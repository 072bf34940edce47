"""A text's vector does not depend on its batch, and a student round-trips through its folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.student.encoder import (
    SentenceEncoder,
    Student,
    encode_texts,
    load_student,
    new_student,
    pad,
    save_student,
    tokenise,
)
from msd.student.record import (
    HEADS,
    RECORD_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    BertConfig,
    StudentError,
    load_record,
)
from tests.student.small import small_student

SIZES = [name for name in BertConfig.model_fields if name.endswith(("_size", "_layers", "_heads", "_embeddings"))]
TEXTS = ["Toy Story", "A spy film with gadgets and stunts", "beach hotel " * 100, "", "Café ☕ 東京"]


@pytest.fixture(scope="module")
def student() -> Student:
    student = new_student()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in student.words.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return student


@pytest.fixture(scope="module")
def original(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_student(student, folder)
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A folder to be altered: the weights are linked, as they are large."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS_FILE))
    (tmp_path / WEIGHTS_FILE).symlink_to(original / WEIGHTS_FILE)
    return tmp_path


def test_untaught_students_are_alike_and_have_no_words() -> None:
    vectors = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        vectors.append(encode_texts(new_student(), TEXTS))
    assert np.array_equal(vectors[0], vectors[1])
    assert not vectors[0][:, HEADS["words"]].any()


def test_hidden_states_equal_transformers_to_the_bit() -> None:
    import transformers  # takes seconds, in each test process if it were above
    from transformers import BertModel

    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(3)
    config = transformers.BertConfig(**sizes, intermediate_size=40, attn_implementation="sdpa")  # type: ignore[call-arg]
    theirs = BertModel(config, add_pooling_layer=False).train(False)
    ours = SentenceEncoder(BertConfig(**sizes, intermediate_size=40)).eval()
    ours.bert.load_state_dict(theirs.state_dict())
    ids_BT, mask_BT = torch.randint(50, (3, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    with torch.no_grad():
        expected = theirs(ids_BT, mask_BT).last_hidden_state
        found = ours.states(ids_BT, mask_BT)
    assert torch.equal(found[mask_BT == 1], expected[mask_BT == 1])


def test_plain_embeddings_equal_the_published_model() -> None:
    """As transformers 5.24 computes them."""
    (found,) = encode_texts(new_student(), ["A spy film with gadgets and stunts"])
    expected = [-0.13357244, 0.04884109, -0.05499316, -0.09049938, 0.02152566, -0.0224352]
    np.testing.assert_allclose(found[:6], expected, atol=1e-5)


@settings(max_examples=8)
@given(texts=st.lists(st.text(max_size=60), max_size=5), batch_size=st.integers(1, 4))
def test_vector_does_not_depend_on_its_batch(student: Student, texts: list[str], batch_size: int) -> None:
    alone = encode_texts(student, TEXTS[:2])
    found = encode_texts(student, [TEXTS[0], *texts, TEXTS[1]], batch_size)
    np.testing.assert_allclose(found[[0, -1]], alone, atol=1e-6)


def test_texts_are_cut_at_max_tokens() -> None:
    short = new_student(max_tokens=16)
    ids, mask = pad(tokenise(short.tokenizer, TEXTS))
    assert ids.shape == mask.shape == (len(TEXTS), 16)
    assert mask.sum(dim=1).tolist()[2:4] == [16, 2]
    vectors = encode_texts(short, ["beach hotel " * 20, "beach hotel " * 90])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_student_round_trips_through_its_folder(student: Student, saved: Path) -> None:
    loaded = load_student(saved)
    assert np.array_equal(encode_texts(loaded, TEXTS), encode_texts(student, TEXTS))
    assert loaded.record == student.record == load_record(saved)
    assert {path.name for path in saved.iterdir()} == {WEIGHTS_FILE, TOKENIZER_FILE, RECORD_FILE}


def test_fingerprint_depends_on_weights_and_truncation(student: Student, saved: Path, tmp_path: Path) -> None:
    again = save_student(student, tmp_path / "again")
    shorter = save_student(new_student(max_tokens=64), tmp_path / "shorter")
    plain = save_student(new_student(), tmp_path / "plain")
    assert again == load_record(saved).fingerprint
    assert len({again, shorter, plain}) == 3


@pytest.mark.parametrize("name", [WEIGHTS_FILE, TOKENIZER_FILE, RECORD_FILE])
def test_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(StudentError, match=f"{name}: no such file"):
        load_student(saved)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, TOKENIZER_FILE])
def test_rejects_altered_or_shortened_file(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    (saved / name).unlink()
    for damaged in (data[:-5], data[:-1] + bytes([data[-1] ^ 1])):
        (saved / name).write_bytes(damaged)
        with pytest.raises(StudentError, match="cut short or altered"):
            load_student(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"student\.json: format 2, this release reads 3; distil again"),
        ({"format": None}, "format None"),
        ({"max_tokens": "many"}, r"student\.json: max_tokens: "),
        ({"max_tokens": 1}, r"student\.json: max_tokens: "),
        ({"colour": "red"}, r"student\.json: colour: "),
        ({"bert": {"hidden_act": "relu"}}, r"student\.json: bert\.hidden_act: "),
        ({"bert": {"num_attention_heads": 7}}, r"student\.json: bert: .*7 does not divide hidden_size=384"),
        ({"bert": {"hidden_size": 768}}, r"student\.json: bert\.hidden_size should be 384"),
        ({"bert": {"max_position_embeddings": 64}}, r"json: max_tokens=128 is more than bert\.max_pos.*=64"),
        *(
            ({"bert": {size: 10**9}}, rf"student\.json: bert\.{size}: should be less than or equal to ")
            for size in SIZES
        ),
    ],
)
def test_rejects_record(saved: Path, change: dict[str, object], message: str) -> None:
    record = json.loads((saved / RECORD_FILE).read_text())
    (saved / RECORD_FILE).write_text(json.dumps({**record, **change}))
    with pytest.raises(StudentError, match=message):
        load_student(saved)


def test_rejects_tokenizer_with_more_words_than_the_network(tmp_path: Path) -> None:
    student = small_student(["Red tent"])
    student.tokenizer.add_tokens(["blue", "green"])
    save_student(student, tmp_path)
    with pytest.raises(StudentError, match=r"tokenizer\.json: has 6 words, where student\.json has 4; distil again"):
        load_student(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff\xfe"])
def test_rejects_records_that_are_none(saved: Path, content: bytes) -> None:
    (saved / RECORD_FILE).write_bytes(content)
    with pytest.raises(StudentError, match=RECORD_FILE):
        load_student(saved)
