"""The reference model, written plainly: the user's tensors are repeated for each candidate, then concatenated.

It knows nothing about serving.
"""

import torch
from torch import Tensor, nn

from lab.reference.inputs import SIDES, Sizes

EMPTY = -1e9  # score of an empty place of the history


class ReferenceModel(nn.Module):
    """Target attention (DIN, arXiv 1706.06978; softmax), two full cross layers (DCN-V2, arXiv 2008.13535), an MLP, over
    both sides' fields and vectors. `tiled`: the user's inputs have one row per candidate."""

    inputs = tuple(SIDES)
    heads = ("pctr",)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tiled = False
        self.user_tables, self.item_tables = (
            nn.ModuleList(nn.Embedding(sizes.vocabulary, sizes.embedding) for _ in range(sizes.fields)) for _ in "ui"
        )
        width = 2 * sizes.side + sizes.vector
        self.attention = _mlp(4 * sizes.vector, sizes.attention, 1)
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = _mlp(width, *sizes.hidden, 1)

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        attended = self._attended(self._rows(history, item_vector), self._rows(history_mask, item_vector), item_vector)
        user = [self._rows(one, item_vector) for one in (*_embedded(self.user_tables, user_fields), user_vector)]
        x0 = torch.cat([*user, *_embedded(self.item_tables, item_fields), item_vector, attended], -1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        return torch.sigmoid(self.mlp(x)).squeeze(-1)

    def _rows(self, user: Tensor, like: Tensor) -> Tensor:
        """Return a user's tensor [1, …] with one row per candidate."""
        return user if self.tiled else user.expand(like.shape[0], *user.shape[1:])

    def _attended(self, h_NTD: Tensor, mask_NT: Tensor, item_ND: Tensor) -> Tensor:
        """Return the history's mean [N, D] with the softmax of the scores as weights; empty places have none."""
        c_NTD = item_ND.unsqueeze(1).expand_as(h_NTD)
        scores_NT = self.attention(torch.cat([h_NTD, c_NTD, h_NTD - c_NTD, h_NTD * c_NTD], -1)).squeeze(-1)
        weights_NT = torch.softmax(scores_NT.masked_fill(mask_NT < 0.5, EMPTY), -1)
        return (weights_NT.unsqueeze(-1) * h_NTD).sum(1)


def _embedded(tables: nn.ModuleList, ids: Tensor) -> list[Tensor]:
    """Return the embedding [·, E] of each field."""
    return [table(ids[:, field]) for field, table in enumerate(tables)]


def _mlp(*widths: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def made(sizes: Sizes, seed: int) -> ReferenceModel:
    """Return a model with weights from the seed, so large that scores differ between candidates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ReferenceModel(sizes).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(2)
        if isinstance(module, nn.Embedding):
            module.weight.data.mul_(0.3)
    return model
