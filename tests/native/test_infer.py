"""What the core makes of tensors is what Python makes of them."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import native
from msd.contract.request import RequestError, parse_request
from native.layout import core_schema
from service.http.json_parser import JsonParser
from service.routes.oip.infer import outputs_of
from service.routes.oip.inputs import scoring_body
from service.routes.oip.tensors import NUMBERS, read_parts
from tests.native.worlds import World, draw_body, draw_world, mutated

CAPACITY = 40
PARSER = JsonParser(CAPACITY)
TENSORS = "user_id", "at", "top_k", "candidates", "context", "user", "items"


def test_core_translates_tensors_as_python_does(tmp_path: Path) -> None:
    random = Random(7)
    translated = 0
    for number in range(7):
        (tmp_path / f"{number}").mkdir()
        world = draw_world(random, tmp_path / f"{number}")
        translated += sum(compare(random, world) for _ in range(200))
    assert translated > 200


def compare(random: Random, world: World) -> bool:
    """Draws a request of tensors and compares. Whether the core translates it to a request."""
    text, rest = draw_inference(random, world)
    found = native.core.infer_request(text, rest, core_schema(world.schema, world.codecs))
    if found is None:
        return False
    own_id, body, outputs = found.id, found.body, found.outputs
    try:
        request = parse_request(body, world.schema, CAPACITY)
    except RequestError:
        return False
    if request.explain or request.page:  # which a job looks at
        return False
    parts = read_parts(PARSER.load(text), rest)
    expected = scoring_body(parts, lambda _: world.schema, CAPACITY, PARSER.check)
    assert request == parse_request(expected, world.schema, CAPACITY), text
    assert json.loads(body) == json.loads(expected), text
    assert own_id == (parts.request.id or "")
    assert (outputs.named, outputs.in_bytes) == outputs_of(parts.request)
    return True


def draw_inference(random: Random, world: World) -> tuple[bytes, bytes | None]:
    """A request, most often a good one: JSON, and bytes behind it."""
    body = draw_body(random, world)
    inputs, rest = [], b""
    for name, value in tensors_of(random, body):
        values = value if isinstance(value, list) else [value]
        one: dict[str, Any] = {"name": name, "shape": [len(values)], "datatype": datatype_of(random, values)}
        packed = bytes_of(one["datatype"], values) if random.random() < 0.4 else None
        if packed is None:
            one["data"] = values
        else:
            one["parameters"] = {"binary_data_size": len(packed)}
            rest += packed
        keys = random.sample(list(one), len(one))
        inputs.append({key: one[key] for key in keys})
    document: dict[str, Any] = {"inputs": inputs}
    if random.random() < 0.3:
        document["id"] = random.choice(["", "a b", None, "x" * 128, "é"])
    if random.random() < 0.3:
        document["parameters"] = random.choice([None, {}, {"binary_data_output": random.choice([True, False, None])}])
    if random.random() < 0.3:
        choices = [{"name": "pctr"}, {"name": "id", "parameters": {"binary_data": random.choice([True, False, None])}}]
        choices += [{"name": random.choice(["pctr", "", "x" * 257])}]
        document["outputs"] = random.choices(choices, k=random.randrange(3))
    text = json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "replace")
    if random.random() < 0.2:
        text = mutated(random, text)
    if rest and random.random() < 0.1:
        rest = mutated(random, rest)
    return text, rest if rest or random.random() < 0.2 else None


def tensors_of(random: Random, body: bytes) -> list[tuple[str, Any]]:
    """Names and values; now and then the whole request as one."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not document.keys() <= {*TENSORS} or random.random() < 0.1:
        return [("request", body.decode("utf-8", "replace"))]
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name == "items":
            values[name] = json.dumps(value, ensure_ascii=random.random() < 0.5)
        elif isinstance(value, dict):
            for inner, one in value.items():
                more = one if inner == "features" and isinstance(one, dict) else {"": one}
                values |= {f"{name}.{inner}.{last}".rstrip("."): given for last, given in more.items()}
        else:
            values[name] = value
    if random.random() < 0.8:
        values = {name: good for name, value in values.items() if (good := tensor_of(name, value)) is not None}
    return random.sample(list(values.items()), len(values))


def tensor_of(name: str, value: object) -> object:
    """Values without those that no tensor can hold."""
    if name in ("items", "candidates.pricing"):
        return None
    return [one for one in value if isinstance(one, str | int | float)] if isinstance(value, list) else value


def datatype_of(random: Random, values: list[Any]) -> str:
    if random.random() < 0.02:
        return random.choice(["FP16", "", "BYTES", *NUMBERS])
    if not all(isinstance(one, int | float) for one in values):
        return "BYTES"
    return random.choice(["FP32", "FP64"] if any(isinstance(one, float) for one in values) else [*NUMBERS, "INT64"])


def bytes_of(datatype: str, values: list[Any]) -> bytes | None:
    try:
        if datatype == "BYTES":
            return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)
        return struct.pack(f"<{len(values)}{NUMBERS[datatype]}", *values)
    except (AttributeError, KeyError, OverflowError, UnicodeEncodeError, struct.error):
        return None
