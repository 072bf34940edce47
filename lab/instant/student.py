"""A student of a megabyte: the encoder's embeddings of frequent words, without its layers."""

import json

import torch
from tokenizers import Tokenizer

from msd.student.encoder import Student, new_student
from msd.student.record import StudentRecord

_MAX_TOKENS = 32
# BERT's vocabulary is by frequency from "the" on.
_FIRST_WORD, _WORDS = 1_996, 2_000
# Weights are multiples of it, which makes them compress to a third.
_STEP = 1 / 256


def little_student(texts: list[str]) -> Student:
    """Return a student that knows the pieces of these texts, single letters and frequent words."""
    whole = new_student(_MAX_TOKENS)
    document = json.loads(whole.tokenizer.to_str())
    kept = _kept(document["model"]["vocab"], {id_ for text in texts for id_ in whole.tokenizer.encode(text).ids})
    place = {old: new for new, old in enumerate(kept.values())}
    document["model"]["vocab"] = {piece: place[old] for piece, old in kept.items()}
    for added in document["added_tokens"]:
        added["id"] = place[added["id"]]
    for special in document["post_processor"]["special_tokens"].values():
        special["ids"] = [place[id_] for id_ in special["ids"]]
    bert = whole.record.bert.model_copy(
        update={"vocab_size": len(kept), "num_hidden_layers": 0, "max_position_embeddings": _MAX_TOKENS}
    )
    record = StudentRecord(start=f"{whole.record.start}, its embeddings", max_tokens=_MAX_TOKENS, bert=bert)
    student = Student(record, Tokenizer.from_str(json.dumps(document)))
    ours, theirs = student.encoder.bert.embeddings.state_dict(), whole.encoder.bert.embeddings.state_dict()
    rows = {"word_embeddings.weight": list(kept.values()), "position_embeddings.weight": list(range(_MAX_TOKENS))}
    for name, weight in theirs.items():
        ours[name] = torch.round(weight[rows[name]] / _STEP) * _STEP if name in rows else weight
    student.encoder.bert.embeddings.load_state_dict(ours)
    for value in student.words.parameters():
        torch.nn.init.zeros_(value)
    return student


def _kept(vocabulary: dict[str, int], wanted: set[int]) -> dict[str, int]:
    """Return the pieces to keep, in their order."""
    in_order = sorted(vocabulary.items(), key=lambda entry: entry[1])

    def is_kept(piece: str, id_: int) -> bool:
        is_special = piece.startswith("[") and "unused" not in piece and len(piece) > 1
        is_letter = len(piece.removeprefix("##")) == 1 and piece.isascii()
        is_frequent = _FIRST_WORD <= id_ < _FIRST_WORD + _WORDS and piece.isascii()
        return is_special or is_letter or is_frequent or id_ in wanted

    return {piece: id_ for piece, id_ in in_order if is_kept(piece, id_)}
