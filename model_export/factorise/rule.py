"""Rules of the factorising pass; each can be switched off."""

from enum import StrEnum


class Rule(StrEnum):
    """A rule of the pass. Without rules, a graph is copied with its shape arithmetic evaluated."""

    BROADCAST = "broadcast"
    """A user's tensor tiled over the candidates stays untiled; operators broadcast it."""
    CONCAT = "concat"
    """Concatenated parts stay parts through layout and elementwise operators."""
    AFFINE = "affine"
    """Sums and products with shared tensors stay symbolic, as Σ L·a + b; only L varies by candidate."""
    LINEAR = "linear"
    """A matrix product over parts, sums and scaled tensors multiplies what candidates share only once."""
    USER_MATRIX = "user_matrix"
    """(candidate · user) @ W = candidate @ (user · W): one matrix for all candidates, made from the user."""
    WEIGHTED_SUM = "weighted_sum"
    """Σ weight · user's row, with weights by candidate, is a matrix product."""
    SOFTMAX = "softmax"
    """softmax(user ‖ candidate) is two softmaxes, weighted by their shares."""
    LOW_RANK = "low_rank"
    """A low-rank cross layer keeps the user's columns as a map of the narrow tensor."""
    HEADS = "heads"
    """Attention heads on one target: candidates become rows of one product per head."""
    FLATTEN = "flatten"
    """[N·T, …] is treated as the original [N, T, …]."""
    BIAS = "bias"
    """A product and the tensor added to all its rows become one Gemm."""
    GATHER = "gather"
    """At least three look-ups in tables of one width become one look-up in a joined table.

    Indices are assumed to be from 0 to below the length of their own table, as in an embedding.
    """


ALL_RULES = frozenset(Rule)
