"""DeepFM of DeepCTR-Torch on MovieLens-100K: python deepfm.py TENSORS deepfm.onnx

Tests check its syntax alone. It needs an environment of its own: that package installs a module called `tests`.
"""

import sys
from pathlib import Path

import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DeepFM
from torch import nn

from model_export.foreign.bind import named_columns
from msd.ranker.tensor_folder import load_record, read_part

SINGLE = ["user_id", "gender", "occupation", "hour", "weekday", "item_id", "decade"]
MANY = ["genres", "history_item_id"]
NUMBERS = ["age", "release_year", "user_counts", "item_counts"]

folder, out = Path(sys.argv[1]), sys.argv[2]
schema = load_record(folder).feature_schema
columns = named_columns(schema)
sizes = {field.name: field.size for side in ("user", "context", "item") for field in schema.indexed(side)}
sizes["history_item_id"] = sizes["item_id"]
places = {"genres": columns["genres"].width, "history_item_id": schema.history.length}
features = [
    *(SparseFeat(name, sizes[name], 16) for name in SINGLE),
    *(VarLenSparseFeat(SparseFeat(name, sizes[name], 16), places[name], combiner="mean") for name in MANY),
    *(DenseFeat(name, columns[name].width) for name in NUMBERS),
]


def inputs(part):
    rows = read_part(folder, part)
    found = {name: columns[name].of(rows) for name in [*SINGLE, *MANY, *NUMBERS]}
    found["history_item_id"] = found["history_item_id"][..., 0]
    return {name: array.astype("float32") for name, array in found.items()}, rows["label"].numpy()


model = DeepFM(features, features, dnn_hidden_units=(128, 64), dnn_dropout=0.2, l2_reg_embedding=1e-5, seed=0)
model.compile("adam", "binary_crossentropy", metrics=["auc"])
model.fit(*inputs("train"), batch_size=512, epochs=3, verbose=2, validation_data=inputs("valid"))


class Served(nn.Module):
    """The model with its features as inputs of their own names, in the order that it was made with."""

    def __init__(self):
        super().__init__()
        self.model = model.eval()

    def forward(self, *found):
        return self.model(torch.cat([one.reshape(one.shape[0], -1).float() for one in found], 1))


names = list(model.feature_index)
width = {name: stop - start for name, (start, stop) in model.feature_index.items()}
examples = [torch.zeros(2, width[name], dtype=torch.float32 if name in NUMBERS else torch.int64) for name in names]
torch.onnx.export(
    Served(),
    tuple(examples),
    out,
    input_names=names,
    output_names=["pctr"],
    dynamic_axes={name: {0: "candidates"} for name in [*names, "pctr"]},
    opset_version=18,
    dynamo=False,
)
