"""The reference models once more, factorised by hand: what depends on the user alone is computed once.

Yardsticks for the factorising pass: each has weights, inputs, heads and scores of a network of `network.py`.
S is the width of a side: its fields' embeddings and its vector.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from loadtest.graph.network import EMPTY, DeepFM, LowRankDCN, Network, Reference, Transformer, TwoTasks


class Twin(nn.Module):
    """One table for all fields of a side, instead of one each."""

    offsets: Tensor
    user_table: Tensor
    item_table: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inputs, self.heads = network.inputs, network.heads
        self.width = network.sizes.side
        self.register_buffer("offsets", network.sizes.vocabulary * torch.arange(network.sizes.fields).to(torch.int32))
        for side in ("user", "item"):
            self.register_buffer(f"{side}_table", _fused(getattr(network, f"{side}_tables")))

    def user(self, fields: Tensor, vector: Tensor) -> Tensor:
        """The user's part of the concatenation [1, S]."""
        return torch.cat([functional.embedding(fields + self.offsets, self.user_table).flatten(1), vector], -1)

    def item(self, fields: Tensor, *vectors: Tensor) -> Tensor:
        """The items' part of the concatenation [N, S, and more for further vectors]."""
        return torch.cat([functional.embedding(fields + self.offsets, self.item_table).flatten(1), *vectors], -1)


def _fused(tables: nn.ModuleList) -> Tensor:
    return torch.cat([table.weight.detach() for table in tables if isinstance(table, nn.Embedding)])


class Split(nn.Module):
    """A linear layer over user ‖ items, its user's part once: [1, U] and [N, W − U] → [N, out]."""

    def __init__(self, layer: nn.Module, user_width: int) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.detach().T
        self.register_buffer("of_user", weight[:user_width].contiguous())
        self.register_buffer("of_item", weight[user_width:].contiguous())
        self.register_buffer("bias", layer.bias.detach())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        of_user, of_item, bias = self.get_buffer("of_user"), self.get_buffer("of_item"), self.get_buffer("bias")
        return torch.addmm(torch.addmm(bias, user, of_user), item, of_item)


class ReferenceTwin(Twin):
    """Attention's first layer is one matrix [D, T·A] of the history; of the rest, the first cross layer is split."""

    def __init__(self, network: Reference) -> None:
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
    """Sums over the user's fields are made once; the square of the whole sum is of [N, E] only."""

    def __init__(self, network: DeepFM) -> None:
        super().__init__(network)
        self.embedding = network.sizes.embedding
        self.user_projection, self.item_projection = network.user_projection, network.item_projection
        for side in ("user", "item"):
            self.register_buffer(f"{side}_weights", _fused(getattr(network, f"{side}_weights")))
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


class LowRankDCNTwin(Twin):
    """The user's half of a cross layer's output is never made: it is linear in the ranks a_1, a_2, … [N, r] before it.

    x_k = x_0 (1 + Σ b_j) with b_j = U_j a_j + c_j, and the user's V x_k is V u (1 + Σ c_j) + Σ V diag(u) U_j a_j.
    """

    def __init__(self, network: LowRankDCN) -> None:
        super().__init__(network)
        half = self.width
        for number, (down, up) in enumerate(zip(network.down, network.up, strict=True)):
            assert isinstance(down, nn.Linear)
            assert isinstance(up, nn.Linear)
            of_user, of_item = down.weight.detach().T.chunk(2)
            self.register_buffer(f"down_user_{number}", of_user.contiguous())
            self.register_buffer(f"down_item_{number}", of_item.contiguous())
            up_user, up_item = up.weight.detach().T.chunk(2, 1)
            self.register_buffer(f"up_user_{number}", up_user.contiguous())
            self.register_buffer(f"up_item_{number}", up_item.contiguous())
            self.register_buffer(f"bias_user_{number}", up.bias.detach()[:half])
            self.register_buffer(f"bias_item_{number}", up.bias.detach()[half:])
        self.layers = len(network.down)
        self.first, self.rest = Split(network.deep[0], half), network.deep[1:]
        head = network.head.weight.detach().T
        self.register_buffer("head_user", head[:half])
        self.register_buffer("head_item", head[half : 2 * half])
        self.register_buffer("head_deep", head[2 * half :])
        self.register_buffer("head_bias", network.head.bias.detach())

    def forward(self, user_fields: Tensor, user_vector: Tensor, item_fields: Tensor, item_vector: Tensor) -> Tensor:
        user, item = self.user(user_fields, user_vector), self.item(item_fields, item_vector)
        x, scale, ranks, ups = item, torch.ones_like(user), torch.zeros_like(user[:, :0]), None
        for number in range(self.layers):
            down_user = self.get_buffer(f"down_user_{number}")
            base = (user * scale) @ down_user
            if ups is not None:
                base = torch.addmm(base, ranks, (ups * user) @ down_user)
            rank = torch.addmm(base, x, self.get_buffer(f"down_item_{number}"))
            x = (
                item * torch.addmm(self.get_buffer(f"bias_item_{number}"), rank, self.get_buffer(f"up_item_{number}"))
                + x
            )
            scale = scale + self.get_buffer(f"bias_user_{number}")
            up_user = self.get_buffer(f"up_user_{number}")
            ups = up_user if ups is None else torch.cat([ups, up_user])
            ranks = rank if number == 0 else torch.cat([ranks, rank], -1)
        assert ups is not None
        deep = torch.relu(self.rest(self.first(user, item)))
        head_user = self.get_buffer("head_user")
        logit = torch.addmm(self.get_buffer("head_bias") + (user * scale) @ head_user, ranks, (ups * user) @ head_user)
        logit = torch.addmm(torch.addmm(logit, x, self.get_buffer("head_item")), deep, self.get_buffer("head_deep"))
        return torch.sigmoid(logit).squeeze(-1)


class TransformerTwin(Twin):
    """A place of the history has (1 − w) of what it gets from the other places, for any target, and w of the target."""

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
        """What follows attention, of rows [·, D]; flat, because the exporter makes one node of such a linear layer."""
        x = self.network.norms[0](x)
        after: Tensor = self.network.norms[1](x + self.network.feed_forward(x))
        return after

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.blocks, self.depth).transpose(0, 1)

    def _attended(self, h_TD: Tensor, mask_1T: Tensor, c_ND: Tensor) -> tuple[Tensor, Tensor]:
        """What the places of the history [N, T, D] and the target [N, D] attend to."""
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
    """First layers of experts and gates split by side; both gates' first layers are one."""

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


_TWINS: Mapping[type[Network], Callable[..., Twin]] = {
    Reference: ReferenceTwin,
    DeepFM: DeepFMTwin,
    LowRankDCN: LowRankDCNTwin,
    Transformer: TransformerTwin,
    TwoTasks: TwoTasksTwin,
}


def twin_of(network: Network) -> Twin:
    """The network's twin, of its weights as they are now."""
    return _TWINS[type(network)](network).eval()
