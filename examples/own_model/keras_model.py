"""A ranker of your own in Keras 3, trained on the output of `msd tensors`; its matrix has the columns that are named.

python keras_model.py TENSORS model.onnx user_counts,item_counts
msd export --onnx model.onnx DATA BUNDLE --columns user_counts,item_counts
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # with TensorFlow, the export needs tf2onnx
import keras
import numpy as np

from model_export.foreign.bind import named_columns
from msd.ranker.tensor_folder import load_record, read_part

folder, out, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
columns = named_columns(load_record(folder).feature_schema)
rows = read_part(folder, "train")
label = rows["label"].numpy()
matrix = np.concatenate([columns[name].of(rows).reshape(len(label), -1) for name in names], 1).astype(np.float32)

model = keras.Sequential(
    [
        keras.layers.Input((matrix.shape[1],), name="features"),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(1, "sigmoid"),
    ]
)
model.compile("adam", "binary_crossentropy")
model.fit(matrix, label, batch_size=256, epochs=3, verbose=2)
model.export(out, format="onnx")
