"""Students of two layers, quick to make, to tune and to save, and of the real kind: one of a few hundred words, and the
lower part of the real one."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from msd.student.encoder import Student, new_student, shorten
from msd.student.record import BertConfig, StudentRecord

LAYERS = 2


def short_student() -> Student:
    """What `new_student` makes, without its upper layers: it knows all words, and what they mean a little."""
    student = new_student()
    shorten(student, LAYERS)
    return student


def small_student(texts: Iterable[str], seed: int = 0) -> Student:
    """A student with random weights that knows the words of these texts."""
    words = sorted({word for text in texts for word, _ in Whitespace().pre_tokenize_str(text)})
    tokenizer = Tokenizer(
        WordLevel({word: at for at, word in enumerate(["[UNK]", "[CLS]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    # So that even a text of no words has a token.
    tokenizer.post_processor = TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 1)])
    bert = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    return Student(StudentRecord(start="small", max_tokens=64, bert=bert), tokenizer)
