"""Twins of the reference models, factorised by hand: what depends on the user alone is computed once.

They are yardsticks for the factorising pass. Each has the weights, inputs, heads and scores of a network of
`network.py`. S is the width of a side: its fields' embeddings and its vector.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.reference.network import (
    EMPTY,
    Change,
    DeepFM,
    Lean,
    LowRankDCN,
    ReferenceModel,
    ReferenceNetwork,
    Transformer,
    TwoTasks,
)
from lab.reference.twin import CrossTwin, Split, Twin, fused


class ReferenceTwin(Twin):
    """Attention's first layer as one matrix [D, T·A] of the history; otherwise only the first cross layer is split."""

    def __init__(self, network: ReferenceModel) -> None:
        super().__init__(network)
        first, _, self.second = network.attention
        assert isinstance(first, nn.Linear)
        of_h, of_c, of_difference, of_product = first.weight.detach().T.chunk(4)
        self.register_buffer("of_history", of_h + of_difference)
        self.register_buffer("of_item", of_c - of_difference)
        self.register_buffer("of_product", of_product.contiguous())
        self.register_buffer("bias", first.bias.detach())
        self.first_cross, self.second_cross = Split(network.cross[0], self.width), network.cross[1]
        self.mlp = network.mlp

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        attended = self._attended(history[0], history_mask, item_vector)
        user, item = self.user(user_fields, user_vector), self.item(item_fields, item_vector, attended)
        x0 = torch.cat([user.expand(item.shape[0], self.width), item], -1)
        x = x0 * self.first_cross(user, item) + x0
        x = x0 * self.second_cross(x) + x
        return torch.sigmoid(self.mlp(x)).squeeze(-1)

    def _attended(self, h_TD: Tensor, mask_1T: Tensor, item_ND: Tensor) -> Tensor:
        (places, depth), width = h_TD.shape, self.get_buffer("bias").shape[0]
        product_DTA = h_TD.T.unsqueeze(2) * self.get_buffer("of_product").unsqueeze(1)
        built = (product_DTA + self.get_buffer("of_item").unsqueeze(1)).reshape(depth, places * width)
        of_user = (h_TD @ self.get_buffer("of_history") + self.get_buffer("bias")).reshape(1, places * width)
        hidden = torch.relu(torch.addmm(of_user, item_ND, built)).reshape(-1, width)
        scores_NT = self.second(hidden).reshape(-1, places)
        return torch.softmax(scores_NT.masked_fill(mask_1T < 0.5, EMPTY), -1) @ h_TD


class DeepFMTwin(Twin):
    """Sums over the user's fields computed once; only the whole sum [N, E] is squared for each candidate."""

    def __init__(self, network: DeepFM) -> None:
        super().__init__(network)
        self.embedding = network.sizes.embedding
        self.user_projection, self.item_projection = network.user_projection, network.item_projection
        for side in ("user", "item"):
            self.register_buffer(f"{side}_weights", fused(getattr(network, f"{side}_weights")))
        self.first = Split(network.mlp[0], (network.sizes.fields + 1) * self.embedding)
        self.rest = network.mlp[1:]

    def forward(self, user_fields: Tensor, user_vector: Tensor, item_fields: Tensor, item_vector: Tensor) -> Tensor:
        user = self.user(user_fields, self.user_projection(user_vector))
        item = self.item(item_fields, self.item_projection(item_vector))
        user_sum, user_squares, user_weights = self._orders("user", user_fields, user)
        item_sum, item_squares, item_weights = self._orders("item", item_fields, item)
        squares = (user_sum + item_sum).square().sum(-1, keepdim=True)
        orders = 0.5 * (squares - item_squares) + item_weights + (user_weights - 0.5 * user_squares)
        return torch.sigmoid(orders + self.rest(self.first(user, item))).squeeze(-1)

    def _orders(self, side: str, ids: Tensor, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = functional.embedding(ids + self.offsets, self.get_buffer(f"{side}_weights"))
        total = flat.reshape(flat.shape[0], -1, self.embedding).sum(1)
        return total, flat.square().sum(-1, keepdim=True), weights.sum(1)


class LowRankDCNTwin(CrossTwin):
    """Head linear in the last cross layer's output, so that the user's half of that is never made either."""

    def __init__(self, network: LowRankDCN) -> None:
        super().__init__(network, [(down, up) for down, up in zip(network.down, network.up, strict=True)])
        self.first, self.rest = Split(network.deep[0], self.width), network.deep[1:]
        head = network.head.weight.detach().T
        self.register_buffer("head_crossed", head[: 2 * self.width])
        self.register_buffer("head_deep", head[2 * self.width :])
        self.register_buffer("head_bias", network.head.bias.detach())

    def forward(self, user_fields: Tensor, user_vector: Tensor, item_fields: Tensor, item_vector: Tensor) -> Tensor:
        user, item = self.user(user_fields, user_vector), self.item(item_fields, item_vector)
        deep = torch.relu(self.rest(self.first(user, item)))
        crossed = self.crossed(user, item, self.get_buffer("head_crossed"), self.get_buffer("head_bias"))
        return torch.sigmoid(torch.addmm(crossed, deep, self.get_buffer("head_deep"))).squeeze(-1)


class LeanTwin(CrossTwin):
    """Attention scores as one product with a matrix [D, T] of the history; the MLP begins as DCN's head does."""

    def __init__(self, network: Lean) -> None:
        assert network.changes == frozenset(Change)
        super().__init__(network, [(pair[0], pair[1]) for pair in network.cross if isinstance(pair, nn.Sequential)])
        (query,), (first, *_) = network.attention, network.mlp
        assert isinstance(query, nn.Linear)
        assert isinstance(first, nn.Linear)
        self.register_buffer("query", query.weight.detach().T.contiguous())
        self.register_buffer("first_weight", first.weight.detach().T)
        self.register_buffer("first_bias", first.bias.detach())
        self.rest = network.mlp[1:]

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        h_TD = history[0]
        scores_NT = item_vector @ (self.get_buffer("query") @ h_TD.T)
        attended_ND = torch.softmax(scores_NT.masked_fill(history_mask < 0.5, EMPTY), -1) @ h_TD
        user, item = self.user(user_fields, user_vector), self.item(item_fields, item_vector, attended_ND)
        first = self.crossed(user, item, self.get_buffer("first_weight"), self.get_buffer("first_bias"))
        return torch.sigmoid(self.rest(first)).squeeze(-1)


class TransformerTwin(Twin):
    """Attention in which a history place takes (1 − w) from the history, for any target, and w from the target."""

    def __init__(self, network: Transformer) -> None:
        super().__init__(network)
        self.network = network
        self.blocks, self.depth = network.sizes.blocks, network.sizes.vector // network.sizes.blocks
        self.first = Split(network.mlp[0], self.width)
        self.rest = network.mlp[1:]

    def forward(
        self,
        user_fields: Tensor,
        user_vector: Tensor,
        history: Tensor,
        history_mask: Tensor,
        item_fields: Tensor,
        item_vector: Tensor,
    ) -> Tensor:
        h_TD = history[0] + self.network.positions[0, :-1]
        c_ND = item_vector + self.network.positions[0, -1]
        attended_NTD, attended_ND = self._attended(h_TD, history_mask, c_ND)
        of_history_NTD = self._after((h_TD + attended_NTD).flatten(0, 1)).reshape(-1, *h_TD.shape)
        total_ND = (of_history_NTD * history_mask.unsqueeze(-1)).sum(1) + self._after(c_ND + attended_ND)
        user = self.user(user_fields, user_vector)
        item = self.item(item_fields, item_vector, total_ND / (history_mask.sum(1, keepdim=True) + 1))
        return torch.sigmoid(self.rest(self.first(user, item))).squeeze(-1)

    def _after(self, x: Tensor) -> Tensor:
        """Return what follows attention, for rows [·, D]; flat, because the exporter makes one node of such layers."""
        x = self.network.norms[0](x)
        after: Tensor = self.network.norms[1](x + self.network.feed_forward(x))
        return after

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.blocks, self.depth).transpose(0, 1)

    def _attended(self, h_TD: Tensor, mask_1T: Tensor, c_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the history's places [N, T, D] and the target [N, D] attend to."""
        of = self.network
        q_HTK, k_HTK, v_HTK = (self._heads(layer(h_TD)) for layer in (of.query, of.key, of.value))
        q_HNK, k_HNK, v_ND = self._heads(of.query(c_ND)), self._heads(of.key(c_ND)), of.value(c_ND)
        scale, empty = self.depth**-0.5, (mask_1T < 0.5)[None]
        own_HTT = ((q_HTK @ k_HTK.transpose(1, 2)) * scale).masked_fill(empty, EMPTY)
        own_TD = (torch.softmax(own_HTT, -1) @ v_HTK).transpose(0, 1).flatten(1)
        to_target_HNT = (k_HNK * scale) @ q_HTK.transpose(1, 2)
        w_NTH1 = torch.sigmoid(to_target_HNT - torch.logsumexp(own_HTT, -1).unsqueeze(1)).permute(1, 2, 0).unsqueeze(-1)
        change_NTHK = (v_ND.unsqueeze(1) - own_TD).unflatten(-1, (self.blocks, self.depth)) * w_NTH1
        of_history = of.out((own_TD + change_NTHK.flatten(2)).flatten(0, 1))
        to_history_HNT = ((q_HNK * scale) @ k_HTK.transpose(1, 2)).masked_fill(empty, EMPTY)
        to_itself_HN1 = (q_HNK * k_HNK).sum(-1, keepdim=True) * scale
        weights_HNS = torch.softmax(torch.cat([to_history_HNT, to_itself_HN1], -1), -1)
        seen_HNK = weights_HNS[..., :-1] @ v_HTK + weights_HNS[..., -1:] * self._heads(v_ND)
        return of_history.reshape(-1, *h_TD.shape), of.out(seen_HNK.transpose(0, 1).flatten(1))


class TwoTasksTwin(Twin):
    """First layers of the experts, and gates, split by side."""

    def __init__(self, network: TwoTasks) -> None:
        super().__init__(network)
        experts = [expert for expert in network.experts if isinstance(expert, nn.Sequential)]
        self.firsts = nn.ModuleList(Split(expert[0], self.width) for expert in experts)
        self.rests = nn.ModuleList(expert[1:] for expert in experts)
        self.gates = nn.ModuleList(Split(gate, self.width) for gate in network.gates)
        self.towers = network.towers

    def forward(
        self, user_fields: Tensor, user_vector: Tensor, item_fields: Tensor, item_vector: Tensor
    ) -> tuple[Tensor, Tensor]:
        user, item = self.user(user_fields, user_vector), self.item(item_fields, item_vector)
        experts_NBD = torch.stack(
            [torch.relu(rest(first(user, item))) for first, rest in zip(self.firsts, self.rests, strict=True)], 1
        )
        clicked, converted = (
            torch.sigmoid(tower((torch.softmax(gate(user, item), -1).unsqueeze(-1) * experts_NBD).sum(1))).squeeze(-1)
            for gate, tower in zip(self.gates, self.towers, strict=True)
        )
        return clicked, clicked * converted


_TWINS: Mapping[type[ReferenceNetwork], Callable[..., Twin]] = {
    ReferenceModel: ReferenceTwin,
    DeepFM: DeepFMTwin,
    LowRankDCN: LowRankDCNTwin,
    Transformer: TransformerTwin,
    TwoTasks: TwoTasksTwin,
    Lean: LeanTwin,
}


def twin_of(network: ReferenceNetwork) -> Twin:
    """Return the network's twin, with its current weights."""
    return _TWINS[type(network)](network).eval()
