"""A ranker of your own in PyTorch, trained on the output of `msd tensors` and written as ONNX.

python pytorch.py TENSORS model.onnx && msd export --onnx model.onnx DATA BUNDLE && msd serve BUNDLE
"""

import sys
from pathlib import Path

import torch
from torch import nn

from model_export.foreign.bind import named_columns
from msd.contract.schema import Categorical
from msd.ranker.tensor_folder import load_record, stream_batches

folder, out = Path(sys.argv[1]), sys.argv[2]
schema = load_record(folder).feature_schema
columns = named_columns(schema)
sides = ("user", "context", "item")
sizes = {field.name: field.size for side in sides for field in schema.indexed(side) if isinstance(field, Categorical)}
numbers = [field.name for side in sides for field in schema.numerics(side)] + ["user_counts", "item_counts"]


class Ranker(nn.Module):
    """Embeddings of categories beside the numbers, through one hidden layer."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 16) for size in sizes.values())
        width = 16 * len(sizes) + sum(columns[name].width for name in numbers)
        self.deep = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, *inputs):
        embedded = [table(one.squeeze(1)) for table, one in zip(self.tables, inputs, strict=False)]
        return torch.sigmoid(self.deep(torch.cat([*embedded, *inputs[len(embedded) :]], 1)))


names = [*sizes, *numbers]
model, loss = Ranker(), nn.BCELoss()
optimiser = torch.optim.AdamW(model.parameters(), 0.003)
for epoch in range(3):
    for batch in stream_batches(folder, "train", 256, epoch):
        inputs = [torch.from_numpy(columns[name].of(batch)) for name in names]
        optimiser.zero_grad()
        error = loss(model(*inputs)[:, 0], batch["label"].float())
        error.backward()
        optimiser.step()
    print(f"epoch {epoch}: loss {error.item():.4f}")
torch.onnx.export(
    model.eval(),
    tuple(one[:2] for one in inputs),
    out,
    input_names=names,
    output_names=["pctr"],
    dynamic_axes={name: {0: "candidates"} for name in [*names, "pctr"]},
    opset_version=18,
    dynamo=False,
)
