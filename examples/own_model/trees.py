"""A ranker of your own by LightGBM, trained on the output of `msd tensors`; its matrix has the columns that are named.

python trees.py TENSORS trees.onnx user_counts,item_counts
msd export --onnx trees.onnx DATA BUNDLE --columns user_counts,item_counts
"""

import sys
from pathlib import Path

import lightgbm
import numpy as np
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from model_export.foreign.bind import named_columns
from msd.ranker.tensor_folder import load_record, read_part

folder, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
columns = named_columns(load_record(folder).feature_schema)


def matrix(part):
    rows = read_part(folder, part)
    label = rows["label"].numpy()
    return np.concatenate([columns[name].of(rows).reshape(len(label), -1) for name in names], 1), label


model = lightgbm.LGBMClassifier(n_estimators=300).fit(*matrix("train"))
width = FloatTensorType([None, model.n_features_])
out.write_bytes(convert_lightgbm(model, initial_types=[("features", width)]).SerializeToString())
