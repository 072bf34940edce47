"""A user's taste: a Gaussian process over their own impressions, clicked or not, in the space that describes the items.

How much more a user clicks than others do is a sum of three parts: always, lately, and for items like this one, which
counts more for recent impressions. Clicks are compared with the items' click rates on the scale of log-odds, as in one
step of Laplace's approximation (Rasmussen and Williams 2006, algorithm 3.1). Given the rows, nothing else is learned
than the kernel's few scales (`msd.training.train_taste`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from msd.contract.schema import OUTCOME_FEATURES, STATE_FEATURES, Bag, Categorical, FeatureSchema
from msd.ranker.embedding import first_known, is_id

BLOCKS = 2  # blocks of a vector: meaning and words
PARTS = ("mood", "mean", "variance")
"""What `Taste` knows of each target."""
FEATURES = 4
_FEW = 256  # fields of at most this many values are compared by indicators
_LEAST_VARIANCE = 1e-4
_NEWTON_STEPS = 8
# Initial scales: variances of log-odds, and days.
_VARIANCES = {"always": 0.2, "lately": 0.3, "recent": 0.3}
_DAYS = {"lately": 10.0, "recent": 30.0}
_OF_BLOCKS, _OF_FIELDS = 0.3, 0.15


class Taste(nn.Module):
    """The kernel's scales; tensors of a history (batch 1 or N) and of N targets to the process's posterior.

    The kernel of two impressions i and j is always + lately mᵢmⱼ + likeness(i, j) (1 + recent qᵢqⱼ); m and q fade with
    age. The likeness adds the cosines of the vectors' blocks and the shared values of each field.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        fields = [field for field in schema.indexed("item") if not is_id(field)]
        self.few = [schema.columns[field.name] for field in fields if field.size <= _FEW]
        self.many = [(schema.columns[field.name], first_known(field)) for field in fields if field.size > _FEW]
        self.blocks = BLOCKS if schema.semantic("item") else 0
        self.variances, self.days = (
            nn.ParameterDict({name: _log(value) for name, value in initial.items()}) for initial in (_VARIANCES, _DAYS)
        )
        self.of_blocks, self.of_fields = _log([_OF_BLOCKS] * self.blocks), _log([_OF_FIELDS] * len(fields))
        for place, field in enumerate(field for field in fields if field.size <= _FEW):
            self.register_buffer(f"values_{place}", _indicators(field), persistent=False)
        state = schema.state("item")
        assert state is not None, "every fitted schema has the item's counts"
        self.offset = nn.Parameter(torch.tensor([math.log(state.prior / (1 - state.prior)), 1.0]))
        self.rate = schema.numeric_width("item") + STATE_FEATURES.index("smoothed_log_odds")

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return `PARTS` [N, 3] of the targets: what the user's mood adds to the log-odds, what they think of items
        like this one, and the variance of the sum."""
        outcomes = dict(zip(OUTCOME_FEATURES, tensors["history_outcomes"].unbind(-1), strict=True))
        shown_BL, clicks_BL = outcomes["impressions"], outcomes["clicks"]
        expected_BL = torch.sigmoid(self._log_odds(outcomes["smoothed_log_odds"]))
        deviation_BL = torch.sqrt(expected_BL * (1.0 - expected_BL))
        weight_BL = torch.sqrt(shown_BL) * deviation_BL
        surprise_BL = (clicks_BL - shown_BL * expected_BL) / (shown_BL.clamp(min=1e-6).sqrt() * deviation_BL)

        variance = {name: log.exp() for name, log in self.variances.items()}
        lately_BL, recent_BL = (torch.exp(-outcomes["age_days"] / self.days[name].exp()) for name in _DAYS)
        history_BLF = self._describe(tensors["history_categorical"], tensors.get("history_semantic"))
        target_NF = self._describe(tensors["item_categorical"], tensors.get("item_semantic"))
        categories = tensors["history_categorical"]
        likeness_BLL = history_BLF @ history_BLF.transpose(1, 2) + self._shared(categories, categories)
        likeness_NL = _products(target_NF, history_BLF) + self._shared(
            categories, tensors["item_categorical"].unsqueeze(1)
        ).squeeze(1)

        recency_BLL = 1.0 + variance["recent"] * recent_BL.unsqueeze(2) * recent_BL.unsqueeze(1)
        kernel_BLL = variance["always"] + variance["lately"] * lately_BL.unsqueeze(2) * lately_BL.unsqueeze(1)
        kernel_BLL = (kernel_BLL + likeness_BLL * recency_BLL) * weight_BL.unsqueeze(2) * weight_BL.unsqueeze(1)
        inverse_BLL = inverse(torch.eye(kernel_BLL.shape[-1], device=kernel_BLL.device) + kernel_BLL)

        of_mood_BL = variance["always"] + variance["lately"] * lately_BL
        of_likeness_NL = likeness_NL * (1.0 + variance["recent"] * recent_BL)
        learned_BL = weight_BL * (inverse_BLL @ surprise_BL.unsqueeze(-1)).squeeze(-1)
        covariance_NL = (of_mood_BL + of_likeness_NL) * weight_BL
        explained_N = (_products(covariance_NL, inverse_BLL) * covariance_NL).sum(-1)
        own_N = self._own(target_NF, tensors["item_categorical"]) * (1.0 + variance["recent"])
        prior_N = variance["always"] + variance["lately"] + own_N
        mood_N = (of_mood_BL * learned_BL).sum(-1).expand(own_N.shape[0])
        mean_N = (of_likeness_NL * learned_BL).sum(-1)
        return torch.stack([mood_N, mean_N, (prior_N - explained_N).clamp(min=_LEAST_VARIANCE)], -1)

    def log_odds(self, tensors: Mapping[str, Tensor], parts: Tensor) -> Tensor:
        """Return the log-odds [N] of a click by the taste alone, from its `PARTS` and the items' click rates."""
        return self._log_odds(tensors["item_dense"][:, self.rate]) + parts[:, 0] + parts[:, 1]

    def _log_odds(self, rate: Tensor) -> Tensor:
        return self.offset[0] + self.offset[1] * rate

    def _describe(self, categorical: Tensor, semantic: Tensor | None) -> Tensor:
        """Return vectors [..., F] of items, whose products are their likeness in blocks and in fields of few values."""
        parts = [torch.zeros_like(categorical[..., :1], dtype=torch.float32)]
        if semantic is not None:
            # All blocks have the length √D.
            for scale, block in zip(self.of_blocks, semantic.chunk(self.blocks, -1), strict=True):
                parts.append(block * torch.exp(0.5 * scale) * block.shape[-1] ** -0.5)
        for place, columns in enumerate(self.few):
            index = categorical[..., columns]
            values = self.get_buffer(f"values_{place}")[index.long()].sum(-2)
            size = (index != 0).sum(-1, keepdim=True).clamp(min=1).to(values.dtype)
            parts.append(values * (torch.exp(0.5 * self.of_fields[place]) / size.sqrt()))
        return torch.cat(parts, -1)

    def _shared(self, categorical_BLC: Tensor, other_NMC: Tensor) -> Tensor:
        """Return the likeness [B or N, M, L] of items in the fields of many values: the cosine of the sets."""
        shared = torch.zeros(())
        for place, (columns, first) in enumerate(self.many, start=len(self.few)):
            left, right = categorical_BLC[..., columns], other_NMC[..., columns]
            same = (left[:, None, :, :, None] == right[:, :, None, None, :]) & (left >= first)[:, None, :, :, None]
            sizes = (left != 0).sum(-1)[:, None, :] * (right != 0).sum(-1)[:, :, None]
            cosines = same.float().sum((-1, -2)) / sizes.clamp(min=1).float().sqrt()
            shared = shared + torch.exp(self.of_fields[place]) * cosines
        return shared if self.many else torch.zeros_like(categorical_BLC[:1, :1, :1], dtype=torch.float32)

    def _own(self, target_NF: Tensor, categorical_NC: Tensor) -> Tensor:
        """Return the likeness [N] of each target to itself."""
        own = target_NF.square().sum(-1)
        for place, (columns, first) in enumerate(self.many, start=len(self.few)):
            index = categorical_NC[:, columns]
            known = (index >= first).float().sum(-1) / (index != 0).float().sum(-1).clamp(min=1.0)
            own = own + torch.exp(self.of_fields[place]) * known
        return own


def taste_features(parts: Tensor) -> Tensor:
    """Return the network's features [N, 4] of `PARTS` [N, 3]: mood, mean, logarithm of the variance, mean in standard
    deviations."""
    mood, mean, variance = parts.unbind(-1)
    return torch.stack([mood, mean, variance.log(), mean / variance.sqrt()], -1)


def inverse(matrix_BLL: Tensor) -> Tensor:
    """Return the inverses [B, L, L] of symmetric matrices, all of whose eigenvalues are 1 or more.

    ONNX has no operator for it, so an exported graph takes Newton's steps X (2 − A X) (Schulz 1933), each of which
    squares the error. They start from the best quadratic polynomial of A between 1 and a bound of its eigenvalues
    (Chebyshev).
    """
    if not torch.onnx.is_in_onnx_export():
        return torch.cholesky_inverse(torch.linalg.cholesky(matrix_BLL))
    two = 2.0 * torch.eye(matrix_BLL.shape[-1])
    bound = matrix_BLL.abs().sum(-1).amax(-1)[:, None, None] * 1.01 + 0.1
    centre, slope = (bound + 1.0) / (bound - 1.0), 2.0 / (bound - 1.0)
    scale = slope / (centre * (4.0 * centre * centre - 3.0))
    quadratic = (4.0 * slope * slope) * (matrix_BLL @ matrix_BLL) - (12.0 * centre * slope) * matrix_BLL
    inverse_BLL = scale * (quadratic + (12.0 * centre * centre - 3.0) * (0.5 * two))
    for _ in range(_NEWTON_STEPS):
        inverse_BLL = inverse_BLL @ (two - matrix_BLL @ inverse_BLL)
    return inverse_BLL


def _products(rows_NK: Tensor, matrix_BMK: Tensor) -> Tensor:
    """Return the products [N, M] of N rows, each with the rows of its own matrix, or all with those of one."""
    if matrix_BMK.shape[0] == 1:
        return rows_NK @ matrix_BMK[0].transpose(0, 1)
    return (matrix_BMK @ rows_NK.unsqueeze(-1)).squeeze(-1)


def _log(values: float | list[float]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values).log())


def _indicators(field: Categorical | Bag) -> Tensor:
    """Return an indicator of each known value [size, size]; zeros for missing and unknown ones."""
    indicators = torch.eye(field.size)
    indicators[: first_known(field)] = 0.0
    return indicators
