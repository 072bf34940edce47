"""The reference models, written plainly: the user's tensors are repeated for each candidate, then concatenated.

They know nothing about serving.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lab.reference.inputs import SIDES, Sizes

EMPTY = -1e9  # score of an empty place of the history


class ReferenceNetwork(nn.Module):
    """Model of both sides' fields and vectors. `tiled`: the user's inputs have one row per candidate."""

    inputs = tuple(SIDES)
    heads = ("pctr",)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tiled = False
        for side in ("user", "item"):
            tables = (nn.Embedding(sizes.vocabulary, sizes.embedding) for _ in range(sizes.fields))
            setattr(self, f"{side}_tables", nn.ModuleList(tables))

    def rows(self, user: Tensor, like: Tensor) -> Tensor:
        """Return a user's tensor [1, …] with one row per candidate."""
        return user if self.tiled else user.expand(like.shape[0], *user.shape[1:])

    def embedded(self, side: str, ids: Tensor) -> list[Tensor]:
        """Return the embedding [·, E] of each field of a side."""
        tables = getattr(self, f"{side}_tables")
        return [table(ids[:, field]) for field, table in enumerate(tables)]

    def concatenated(
        self, user_fields: Tensor, user_vector: Tensor, item_fields: Tensor, item_vector: Tensor
    ) -> Tensor:
        """Return both sides' embeddings and vectors [N, 2S]."""
        user = [self.rows(one, item_vector) for one in (*self.embedded("user", user_fields), user_vector)]
        return torch.cat([*user, *self.embedded("item", item_fields), item_vector], -1)


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def weighted(h_NTD: Tensor, mask_NT: Tensor, scores_NT: Tensor) -> Tensor:
    """Return the history's mean [N, D] with the softmax of the scores as weights; empty places have none."""
    weights_NT = torch.softmax(scores_NT.masked_fill(mask_NT < 0.5, EMPTY), -1)
    return (weights_NT.unsqueeze(-1) * h_NTD).sum(1)


class ReferenceModel(ReferenceNetwork):
    """Target attention (DIN, arXiv 1706.06978; softmax), two full cross layers (DCN-V2, arXiv 2008.13535), an MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = 2 * sizes.side + sizes.vector
        self.attention = mlp(4 * sizes.vector, sizes.attention, 1)
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = mlp(width, *sizes.hidden, 1)

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        attended = self._attended(self.rows(history, item_vector), self.rows(history_mask, item_vector), item_vector)
        x0 = torch.cat([self.concatenated(user_fields, user_vector, item_fields, item_vector), attended], -1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        return torch.sigmoid(self.mlp(x)).squeeze(-1)

    def _attended(self, h_NTD: Tensor, mask_NT: Tensor, item_ND: Tensor) -> Tensor:
        c_NTD = item_ND.unsqueeze(1).expand_as(h_NTD)
        scores_NT = self.attention(torch.cat([h_NTD, c_NTD, h_NTD - c_NTD, h_NTD * c_NTD], -1)).squeeze(-1)
        return weighted(h_NTD, mask_NT, scores_NT)


class Transformer(ReferenceNetwork):
    """One transformer layer over history and target, averaged (BST, arXiv 1905.06874), and an MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = sizes.vector
        self.positions = nn.Parameter(0.1 * torch.randn(1, sizes.history + 1, width))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.feed_forward = mlp(width, sizes.feed_forward, width)
        self.mlp = mlp(2 * sizes.side + width, *sizes.hidden, 1)

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        x_NSD = torch.cat([self.rows(history, item_vector), item_vector.unsqueeze(1)], 1) + self.positions
        mask_NS = torch.cat([self.rows(history_mask, item_vector), torch.ones_like(item_vector[:, :1])], 1)
        x_NSD = self.norms[0](x_NSD + self._attended(x_NSD, mask_NS))
        x_NSD = self.norms[1](x_NSD + self.feed_forward(x_NSD))
        mean_ND = (x_NSD * mask_NS.unsqueeze(-1)).sum(1) / mask_NS.sum(1, keepdim=True)
        x = torch.cat([self.concatenated(user_fields, user_vector, item_fields, item_vector), mean_ND], -1)
        return torch.sigmoid(self.mlp(x)).squeeze(-1)

    def _attended(self, x_NSD: Tensor, mask_NS: Tensor) -> Tensor:
        depth = self.sizes.vector // self.sizes.blocks

        def split(t_NSD: Tensor) -> Tensor:
            return t_NSD.reshape(-1, self.sizes.history + 1, self.sizes.blocks, depth).transpose(1, 2)

        q_NHSK, k_NHSK, v_NHSK = split(self.query(x_NSD)), split(self.key(x_NSD)), split(self.value(x_NSD))
        scores_NHSS = (q_NHSK @ k_NHSK.transpose(-1, -2)) * depth**-0.5
        weights_NHSS = torch.softmax(scores_NHSS.masked_fill(mask_NS[:, None, None, :] < 0.5, EMPTY), -1)
        merged: Tensor = self.out((weights_NHSS @ v_NHSK).transpose(1, 2).flatten(2))
        return merged


NETWORKS: Mapping[str, Callable[[Sizes], ReferenceNetwork]] = {
    "reference": ReferenceModel,
    "transformer": Transformer,
}


def made(name: str, sizes: Sizes, seed: int) -> ReferenceNetwork:
    """Return a network by name, with weights from the seed so large that scores differ between candidates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name](sizes).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(2)
        if isinstance(module, nn.Embedding):
            module.weight.data.mul_(0.3)
    return network
