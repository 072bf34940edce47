"""A text encoder without torch: a vector for each byte of a text, averaged; with a tokenizer that knows every byte."""

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MAX_TOKENS = 64
POISON = "☠"
"""With it in a text, and in no other, the vector is not a number."""


def build_tokenizer() -> Tokenizer:
    """A token a byte, 64 of them at most."""
    vocabulary = {byte: place for place, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def build_encoder(width: int, seed: int) -> bytes:
    """input_ids and attention_mask, both [B, T] → semantic [B, width]."""
    table = np.random.default_rng(seed).standard_normal((257, width)).astype(np.float32) * 2
    # The last byte of the poison, and of hardly any other character.
    table[build_tokenizer().encode(POISON).ids[-1]] = np.nan
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([1], np.int64), "length"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask.wide"]),
        helper.make_node("Mul", ["states", "mask.wide"], ["real"]),
        helper.make_node("ReduceSum", ["real", "length"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "length"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["semantic"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("semantic", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "encoder", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def encode_alone(graph: bytes, tokenizer: Tokenizer, text: str) -> NDArray[np.float32]:
    """The vector [width] of one text, as an export would make it."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    (vectors,) = session.run(["semantic"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    vector: NDArray[np.float32] = vectors[0]
    return vector
