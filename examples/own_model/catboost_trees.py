"""A ranker of your own by CatBoost, trained on the output of `msd tensors`; its matrix has the columns that are named.

python catboost_trees.py TENSORS trees.onnx user_counts,item_counts
msd export --onnx trees.onnx DATA BUNDLE --columns user_counts,item_counts

Tests check its syntax alone: the package has 100 MB.
"""

import sys
from pathlib import Path

import numpy as np
from catboost import CatBoostClassifier

from model_export.foreign.bind import named_columns
from msd.ranker.tensor_folder import load_record, read_part

folder, out, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
columns = named_columns(load_record(folder).feature_schema)
rows = read_part(folder, "train")
label = rows["label"].numpy().astype(int)  # ONNX has no floating-point labels
matrix = np.concatenate([columns[name].of(rows).reshape(len(label), -1) for name in names], 1)

model = CatBoostClassifier(iterations=300, allow_writing_files=False, verbose=False)
model.fit(matrix, label)
model.save_model(out, format="onnx")
