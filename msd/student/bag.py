"""Bag of the teacher's words: TF-IDF reduced to 128 numbers. Used only in training, not stored in a student."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from msd.student.record import WORDS_DIM, Vectors

_MOST_TERMS = 30_000


class BagOfWords:
    """Latent semantic analysis: the 128 directions in which the words of some texts differ most."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Fit the directions to n texts. Few texts, or few words, have fewer: the rest stays zero."""
        # Very rare or frequent terms carry little; a handful of texts may have no others.
        for bounds in ({"min_df": 3, "max_df": 0.5}, {}):
            self._counts = TfidfVectorizer(
                sublinear_tf=True, stop_words="english", ngram_range=(1, 2), max_features=_MOST_TERMS, **bounds
            )
            try:
                counts = self._counts.fit_transform(texts)
            except ValueError:  # no terms are left
                continue
            _, _, directions = randomized_svd(counts, min(WORDS_DIM, *counts.shape), random_state=0)
            self._directions: Vectors | None = directions.T.astype(np.float32)
            return
        self._directions = None

    def coordinates(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors [n, 128] of n texts; zeros for a text without any of the fitted words."""
        result = np.zeros((len(texts), WORDS_DIM), np.float32)
        if self._directions is not None and texts:
            found = self._counts.transform(texts) @ self._directions
            result[:, : found.shape[1]] = found
        length = np.linalg.norm(result, axis=1)
        said = length > 1e-6
        result[said] /= length[said, None]
        result[~said] = 0.0
        return result
