"""Twin of the reference model, factorised by hand: what depends on the user alone is computed once.

A yardstick for the factorising pass: it has the weights, inputs, heads and scores of the network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.reference.network import EMPTY, GraphModule, ReferenceModel


class ReferenceTwin(GraphModule):
    """One table for all fields of a side; attention's first layer as one matrix [D, T·A] of the history; the first
    cross layer split by side."""

    def __init__(self, network: ReferenceModel) -> None:
        super().__init__()
        self.width = network.sizes.side
        first, _, self.second = network.attention
        first_cross, self.second_cross = network.cross
        assert isinstance(first, nn.Linear)
        assert isinstance(first_cross, nn.Linear)
        self.mlp = network.mlp
        of_h, of_c, of_difference, of_product = first.weight.detach().T.chunk(4)
        cross = first_cross.weight.detach().T
        buffers = {
            "offsets": network.sizes.vocabulary * torch.arange(network.sizes.fields).to(torch.int32),
            **{f"{side}_table": _fused(getattr(network, f"{side}_tables")) for side in ("user", "item")},
            "of_history": of_h + of_difference,
            "of_item": of_c - of_difference,
            "of_product": of_product.contiguous(),
            "bias": first.bias.detach(),
            "cross_user": cross[: self.width].contiguous(),
            "cross_item": cross[self.width :].contiguous(),
            "cross_bias": first_cross.bias.detach(),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

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
        user = torch.cat([self._embedded("user", user_fields), user_vector], -1)
        item = torch.cat([self._embedded("item", item_fields), item_vector, attended], -1)
        x0 = torch.cat([user.expand(item.shape[0], self.width), item], -1)
        known = torch.addmm(self.get_buffer("cross_bias"), user, self.get_buffer("cross_user"))
        x = x0 * torch.addmm(known, item, self.get_buffer("cross_item")) + x0
        x = x0 * self.second_cross(x) + x
        return torch.sigmoid(self.mlp(x)).squeeze(-1)

    def _embedded(self, side: str, fields: Tensor) -> Tensor:
        table = self.get_buffer(f"{side}_table")
        return functional.embedding(fields + self.get_buffer("offsets"), table).flatten(1)

    def _attended(self, h_TD: Tensor, mask_1T: Tensor, item_ND: Tensor) -> Tensor:
        (places, depth), width = h_TD.shape, self.get_buffer("bias").shape[0]
        product_DTA = h_TD.T.unsqueeze(2) * self.get_buffer("of_product").unsqueeze(1)
        built = (product_DTA + self.get_buffer("of_item").unsqueeze(1)).reshape(depth, places * width)
        of_user = (h_TD @ self.get_buffer("of_history") + self.get_buffer("bias")).reshape(1, places * width)
        hidden = torch.relu(torch.addmm(of_user, item_ND, built)).reshape(-1, width)
        scores_NT = self.second(hidden).reshape(-1, places)
        return torch.softmax(scores_NT.masked_fill(mask_1T < 0.5, EMPTY), -1) @ h_TD


def _fused(tables: nn.ModuleList) -> Tensor:
    return torch.cat([table.weight.detach() for table in tables if isinstance(table, nn.Embedding)])
