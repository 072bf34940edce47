"""Script that runs inside an image: it uses each optional part once, as the service does, on the mounted bundle, and so
finds missing files of packages. Knows nothing about engines."""

import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

BUNDLE = Path("/bundle")


def live() -> None:
    """Write a live state to LMDB."""
    import lmdb

    with tempfile.TemporaryDirectory() as folder, lmdb.open(folder) as states, states.begin(write=True) as change:
        change.put(b"u1", b"state")


def log() -> None:
    """Write and read a file of the request log."""
    from msd.contract.log import EventRecord
    from service.request_log.files import encode, read_events

    event = EventRecord("e1", "click", "u1", "a1", 1.0, None, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.parquet")
        path.write_bytes(encode([event]))
        assert list(read_events(path)) == [event]


def encode() -> None:
    """Run the bundle's tokenizer, if it has one."""
    from tokenizers import Tokenizer

    if (BUNDLE / "tokenizer.json").exists():
        assert Tokenizer.from_file(str(BUNDLE / "tokenizer.json")).encode("a new ad").ids


def sign() -> None:
    """Make and verify a signature."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"manifest"), b"manifest")


def trace() -> None:
    """Record a span, and create its exporter."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider

    OTLPSpanExporter(endpoint="http://127.0.0.1:1/v1/traces")
    with TracerProvider().get_tracer("image").start_as_current_span("request") as span:
        assert span.is_recording()


def openvino() -> None:
    """Compile the ranker with OpenVINO."""
    import openvino

    core = openvino.Core()
    assert core.compile_model(core.read_model(BUNDLE / "ranker.onnx"), "CPU").outputs


PARTS: dict[str, tuple[str, Callable[[], None]]] = {
    "live": ("lmdb", live),
    "log": ("pyarrow", log),
    "encode": ("tokenizers", encode),
    "sign": ("cryptography", sign),
    "trace": ("opentelemetry", trace),
    "openvino": ("openvino", openvino),
}


def used() -> list[str]:
    """Use each installed part once, and return their names. Raises a part's error if it fails."""
    here = [name for name, (module, _) in PARTS.items() if importlib.util.find_spec(module)]
    for name in here:
        PARTS[name][1]()
    return here


if __name__ == "__main__":
    print(json.dumps(used()))  # noqa: T201 - for the caller
