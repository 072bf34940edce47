"""The `local` teacher: a transformers model folder or a GGUF file on this machine, asked in batches. Sends nothing."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList
from transformers.utils import logging

from msd.teachers.dialogue import Dialogue
from msd.teachers.grammar import FEWEST_TOKENS, AnswerForm
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import Example, Message, Prompt, usage_of
from msd.teachers.teacher import AnswerSource, Question, Reply, Usage

_SAMPLE = 1 << 20


@dataclass(frozen=True)
class LocalReply:
    """The model's output and its tokens. `fault`: why the model could not be asked."""

    text: str
    usage: Usage
    fault: str = ""


class LocalTeacher:
    """A local model with greedy decoding: the same question gets the same answer. It is loaded for the first question.

    `path`: a model folder, or a GGUF file. `batch`: questions at once; more take more memory. Raises TeacherError if
    there is no model, or if it cannot be loaded.
    """

    def __init__(self, path: Path, batch: int = 8, max_tokens: int = 512, prompt: Prompt | None = None) -> None:
        self._path, self._batch, self._max_tokens = path, batch, max_tokens
        self._prompt = prompt or Prompt()
        if not (path.is_file() and path.suffix == ".gguf") and not (path / "config.json").is_file():
            raise TeacherError(f"{path} is neither a GGUF file nor a model's folder with a config.json")

    @cached_property
    def name(self) -> str:
        """Name of the file or folder, with a short hash of its contents (sizes, and each file's first mebibyte)."""
        mark = hashlib.sha256()
        for file in [self._path] if self._path.is_file() else sorted(self._path.iterdir()):
            if file.is_file():
                with file.open("rb") as content:
                    mark.update(f"{file.name}\0{file.stat().st_size}\0".encode() + content.read(_SAMPLE))
        return f"{self._path.resolve().name.removesuffix('.gguf')}-{mark.hexdigest()[:8]}"

    @property
    def prompt_version(self) -> str:
        """Version of the wording and the examples."""
        return self._prompt.version

    @property
    def provenance(self) -> str:
        """The model that wrote the answers; its licence has the terms of their use."""
        return f"Answers of the local model {self.name}, greedy, prompt {self.prompt_version}."

    @property
    def prompt_sha256(self) -> str:
        """Hash of the wording and the examples."""
        return self._prompt.sha256

    def steered(self, examples: tuple[Example, ...]) -> Self:
        """Return the same teacher, shown examples."""
        return type(self)(self._path, self._batch, self._max_tokens, Prompt(examples))

    def input_of(self, question: Question) -> str:
        """Return the question's text; its ID is not shown."""
        return question.text

    def estimate(self, question: Question) -> Usage:
        """Return the expected tokens of one question."""
        return usage_of(self._prompt.messages(question), self.tokens)

    def tokens(self, text: str) -> int:
        """Return the number of tokens of a text, by the model's own tokenizer."""
        return len(self._tokenizer(text, add_special_tokens=False).input_ids)

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies in the questions' order, batch by batch."""
        for start in range(0, len(questions), self._batch):
            yield from self._answer(questions[start : start + self._batch])

    def say(self, chats: Sequence[Sequence[Message]], form: AnswerForm | None = None) -> list[LocalReply]:
        """Return the model's answer to each chat, in the form if one is given."""
        prompts = [self._written_out(chat) for chat in chats]
        lengths = [self.tokens(text) for text in prompts]
        room = getattr(self._model.config, "max_position_embeddings", None) or max(lengths) + self._max_tokens
        fits = [length + self._max_tokens <= room for length in lengths]
        texts = iter(self._generate([text for text, fit in zip(prompts, fits, strict=True) if fit], form))
        said = []
        for length, fit in zip(lengths, fits, strict=True):
            if fit:
                text, written = next(texts)
                said.append(LocalReply(text, Usage(length, written)))
            else:
                fault = f"{length} tokens of question and {self._max_tokens} of answer do not fit into {room}"
                said.append(LocalReply("", Usage(), fault))
        return said

    def _answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Answer one batch, and the repair questions that are due after it."""
        dialogues = [Dialogue(question, self._prompt) for question in questions]
        source = AnswerSource(
            self.name, {"greedy": True, "max_tokens": self._max_tokens, "form": self._form is not None}
        )
        replies: dict[Dialogue, Reply] = {}
        while open_ := [one for one in dialogues if one not in replies and one.due is not None]:
            for one, said in zip(open_, self.say([one.due or [] for one in open_], self._form), strict=True):
                if said.fault:
                    replies[one] = one.broken_off(said.fault, unsaid="")
                else:
                    one.hear(said.text, said.usage, source)
        for one in dialogues:
            yield replies.get(one) or one.reply

    def _written_out(self, chat: Sequence[Message]) -> str:
        """Return the chat as its template writes it; plain paragraphs if the model has no chat template."""
        if not self._tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in chat) + "\n\n"
        try:
            return self._rendered(chat)
        except TemplateError:
            # Some templates have no system turn: its text is put at the start of the first question.
            system, first, *rest = chat
            merged = Message(role="user", content=f"{system['content']}\n\n{first['content']}")
            return self._rendered([merged, *rest])

    def _rendered(self, chat: Sequence[Message]) -> str:
        return str(self._tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], form: AnswerForm | None) -> list[tuple[str, int]]:
        """Return the text that follows each prompt, and its length in tokens."""
        if not prompts:
            return []
        # Padding precedes the prompt, so that all answers start at the same place.
        inputs = self._tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {name: inputs[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        pad = self._tokenizer.pad_token_id
        processors = LogitsProcessorList([form.processor(len(prompts))] if form else [])
        output_BT = self._model.generate(
            **inputs,
            max_new_tokens=self._max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            logits_processor=processors,
        )
        found = []
        for tokens in output_BT[:, inputs["input_ids"].shape[1] :].tolist():
            text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append((text, sum(token != pad for token in tokens)))
        return found

    @cached_property
    def _form(self) -> AnswerForm | None:
        """The answer's form; None if the tokenizer is of an unknown kind, or there are too few tokens for it."""
        if self._max_tokens < FEWEST_TOKENS:
            return None
        try:
            return AnswerForm(self._tokenizer, self._max_tokens)
        except ValueError:
            return None

    @cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401
        folder, options = self._source()
        tokenizer = self._load(AutoTokenizer, folder, padding_side="left", **options)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401
        folder, options = self._source()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else "auto"
        model = self._load(AutoModelForCausalLM, folder, dtype=dtype, **options)
        # A folder's sampling options do not matter here, and would cause warnings.
        model.generation_config.update(temperature=None, top_p=None, top_k=None)
        return model.to(device).eval()

    def _source(self) -> tuple[Path, dict[str, str]]:
        return (self._path.parent, {"gguf_file": self._path.name}) if self._path.is_file() else (self._path, {})

    def _load(self, kind: Any, folder: Path, **options: Any) -> Any:  # noqa: ANN401
        be_silent: Callable[[], None] = logging.disable_progress_bar
        be_silent()
        try:
            return kind.from_pretrained(folder, local_files_only=True, **options)
        except Exception as error:  # A damaged file, or one of another version, can fail in any way.
            raise TeacherError(f"{self._path} cannot be loaded: {error}") from None
