"""The rules of the factorising pass; each can be switched off."""

from enum import StrEnum


class Rule(StrEnum):
    """A rule of the pass. Without any, a graph is copied with its shape arithmetic evaluated."""

    BROADCAST = "broadcast"
    """A user's tensor tiled over the candidates stays as it was; operators broadcast it."""
    CONCAT = "concat"
    """Parts side by side stay parts, through layout and elementwise operators."""
    AFFINE = "affine"
    """Sums and products with what is the same for all candidates wait as Σ L·a + b, L alone being by candidate."""
    LINEAR = "linear"
    """A matrix product over parts, sums and scaled tensors: what the candidates share is multiplied once."""
    USER_MATRIX = "user_matrix"
    """(candidate · user) @ W = candidate @ (user · W): one matrix made of the user for all candidates."""
    WEIGHTED_SUM = "weighted_sum"
    """Σ weight · user's row, the weights being by candidate: a matrix product."""
    SOFTMAX = "softmax"
    """softmax(user ‖ candidate) is two softmaxes, weighted by their shares."""
    LOW_RANK = "low_rank"
    """A low-rank cross layer keeps the user's columns as a map of the narrow tensor."""
    HEADS = "heads"
    """Attention of one target by heads: candidates become rows of one product a head."""
    FLATTEN = "flatten"
    """[N·T, …] is seen as the [N, T, …] that it came from."""
    BIAS = "bias"
    """A product and what is added to all its rows become one Gemm."""
    GATHER = "gather"
    """Look-ups of three columns or more in tables of one width become one look-up in a joined table.

    Indices are taken to be from 0 to below the length of their own table, as those of an embedding are.
    """


ALL_RULES = frozenset(Rule)
