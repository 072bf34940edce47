"""The `local` teacher: a transformers model folder or a GGUF file on this machine, asked in batches. Sends nothing.

Decoding is constrained: the model can only write a complete answer of the right form within its token limit.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from msd.teachers.answer import Dialogue
from msd.teachers.checks import FEWEST_TAGS, MOST_TAGS
from msd.teachers.knowledge import TeacherError
from msd.teachers.prompts import PROMPT_VERSION, Message, prompt_sha256
from msd.teachers.teacher import AnswerSource, Question, Reply, Usage

_SAMPLE = 1 << 20
# Shares of an answer's tokens for its three texts; a tag gets a twelfth of the rest.
_REASONING, _EXPLICIT, _IMPLICIT = 0.35, 0.15, 0.2
_KEYS = 60
_FEWEST_TOKENS = 200


def _grammar(max_tokens: int) -> str:
    """Return the answer's form in llguidance's dialect of Lark. A text ends when it reaches its share of the tokens."""
    free = max_tokens - _KEYS
    tag = max(3, int(free * (1 - _REASONING - _EXPLICIT - _IMPLICIT) / 12))
    return rf"""
start: "{{\"reasoning\": \"" reasoning "\", \"explicit\": \"" explicit "\", \"implicit\": \"" implicit "\", \"tags\": [\"" tags "\"], \"known\": " ("true" | "false") "}}"
reasoning[max_tokens={int(free * _REASONING)}]: TEXT
explicit[max_tokens={int(free * _EXPLICIT)}]: TEXT
implicit[max_tokens={int(free * _IMPLICIT)}]: TEXT
tags: tag ("\", \"" tag){{{FEWEST_TAGS - 1},{MOST_TAGS - 1}}}
tag[max_tokens={tag}]: /[^"\\\x00-\x20,;][^"\\\x00-\x1f,;]*/
TEXT: /[^"\\\x00-\x20][^"\\\x00-\x1f]*/
"""  # noqa: E501 - the dialect has no line continuation


class AnswerForm:
    """The form, compiled for one model's tokenizer. Raises ValueError if llguidance cannot read the tokenizer."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:  # noqa: ANN401
        self._tokenizer = from_tokenizer(tokenizer)
        self._end = tokenizer.eos_token_id
        self._matcher = LLMatcher(self._tokenizer, _grammar(max_tokens))
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def processor(self, answers: int) -> "FormProcessor":
        """Return a processor that holds a batch of answers to the form."""
        return FormProcessor([self._matcher.deep_copy() for _ in range(answers)], self._end)


class FormProcessor(LogitsProcessor):
    """Logits processor that masks tokens that the form does not allow. For one call of `generate`."""

    def __init__(self, matchers: list[LLMatcher], end: int) -> None:
        self._matchers, self._end = matchers, end
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [B, V] with masked tokens. input_ids [B, T]: the last token was chosen by the previous call's
        scores."""
        for row, matcher in enumerate(self._matchers):
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            if matcher.is_stopped():
                allowed[self._end] = True
            else:
                bias = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) != 0
                allowed[: len(bias)] = bias[: len(allowed)]
            scores[row, ~allowed.to(scores.device)] = -torch.inf
        self._begun = True
        return scores


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

    def __init__(self, path: Path, batch: int = 8, max_tokens: int = 512) -> None:
        self._path, self._batch, self._max_tokens = path, batch, max_tokens
        if not (path.is_file() and path.suffix == ".gguf") and not (path / "config.json").is_file():
            raise TeacherError(f"{path} is neither a GGUF file nor a model's folder with a config.json")
        self.prompt_version, self.prompt_sha256 = PROMPT_VERSION, prompt_sha256()

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
    def provenance(self) -> str:
        """The model that wrote the answers; its licence has the terms of their use."""
        return f"Answers of the local model {self.name}, greedy, prompt {self.prompt_version}."

    def input_of(self, question: Question) -> str:
        """Return the question's text; its ID is not shown."""
        return question.text

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies in the questions' order, batch by batch."""
        for start in range(0, len(questions), self._batch):
            yield from self._answer(questions[start : start + self._batch])

    def say(self, chats: Sequence[Sequence[Message]], form: AnswerForm | None = None) -> list[LocalReply]:
        """Return the model's answer to each chat, in the form if one is given."""
        prompts = [self._written_out(chat) for chat in chats]
        lengths = [len(self._tokenizer(text, add_special_tokens=False).input_ids) for text in prompts]
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
        dialogues = [Dialogue(question) for question in questions]
        source = AnswerSource(
            self.name, {"greedy": True, "max_tokens": self._max_tokens, "form": self._form is not None}
        )
        replies: dict[Dialogue, Reply] = {}
        while open_ := [dialogue for dialogue in dialogues if dialogue not in replies and dialogue.due is not None]:
            for one, said in zip(open_, self.say([one.due or [] for one in open_], self._form), strict=True):
                if said.fault:
                    replies[one] = one.broken_off(said.fault, raw="")
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
        if self._max_tokens < _FEWEST_TOKENS:
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
