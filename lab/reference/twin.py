"""Parts of the twins of `twins.py`. Knows only the networks' common parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.reference.network import ReferenceNetwork


class Twin(nn.Module):
    """Network with one table for all fields of a side, instead of one each."""

    offsets: Tensor
    user_table: Tensor
    item_table: Tensor

    def __init__(self, network: ReferenceNetwork) -> None:
        super().__init__()
        self.inputs, self.heads = network.inputs, network.heads
        self.width = network.sizes.side
        self.register_buffer("offsets", network.sizes.vocabulary * torch.arange(network.sizes.fields).to(torch.int32))
        for side in ("user", "item"):
            self.register_buffer(f"{side}_table", fused(getattr(network, f"{side}_tables")))

    def user(self, fields: Tensor, vector: Tensor) -> Tensor:
        """Return the user's part of the concatenation [1, S]."""
        return torch.cat([functional.embedding(fields + self.offsets, self.user_table).flatten(1), vector], -1)

    def item(self, fields: Tensor, *vectors: Tensor) -> Tensor:
        """Return the items' part of the concatenation [N, S], wider with further vectors."""
        return torch.cat([functional.embedding(fields + self.offsets, self.item_table).flatten(1), *vectors], -1)


def fused(tables: nn.ModuleList) -> Tensor:
    return torch.cat([table.weight.detach() for table in tables if isinstance(table, nn.Embedding)])


class Split(nn.Module):
    """A linear layer over user ‖ items, with the user's part computed once: [1, U] and [N, W − U] → [N, out]."""

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


class CrossTwin(Twin):
    """Low-rank cross layers. The user's half of their outputs is never made: it is linear in the previous ranks a_1,
    a_2, … [N, r].

    x_k = x_0 (1 + Σ b_j) with b_j = U_j a_j + c_j, and the user's V x_k is V u (1 + Σ c_j) + Σ V diag(u) U_j a_j.
    """

    def __init__(self, network: ReferenceNetwork, layers: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__(network)
        half = self.width
        for number, (down, up) in enumerate(layers):
            assert isinstance(down, nn.Linear)
            assert isinstance(up, nn.Linear)
            of_user, of_item = down.weight.detach().T.tensor_split([half])
            self.register_buffer(f"down_user_{number}", of_user.contiguous())
            self.register_buffer(f"down_item_{number}", of_item.contiguous())
            up_user, up_item = up.weight.detach().T.tensor_split([half], 1)
            self.register_buffer(f"up_user_{number}", up_user.contiguous())
            self.register_buffer(f"up_item_{number}", up_item.contiguous())
            self.register_buffer(f"bias_user_{number}", up.bias.detach()[:half])
            self.register_buffer(f"bias_item_{number}", up.bias.detach()[half:])
        self.layers = len(layers)

    def crossed(self, user: Tensor, item: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return all cross layers over user [1, U] ‖ item [N, W − U], then a linear layer of weight [W, out]."""
        x, scale, ranks, ups = item, torch.ones_like(user), torch.zeros_like(user[:, :0]), None
        for number in range(self.layers):
            down_user = self.get_buffer(f"down_user_{number}")
            base = (user * scale) @ down_user
            if ups is not None:
                base = torch.addmm(base, ranks, (ups * user) @ down_user)
            rank = torch.addmm(base, x, self.get_buffer(f"down_item_{number}"))
            up_item = torch.addmm(self.get_buffer(f"bias_item_{number}"), rank, self.get_buffer(f"up_item_{number}"))
            x = item * up_item + x
            scale = scale + self.get_buffer(f"bias_user_{number}")
            up_user = self.get_buffer(f"up_user_{number}")
            ups = up_user if ups is None else torch.cat([ups, up_user])
            ranks = rank if number == 0 else torch.cat([ranks, rank], -1)
        assert ups is not None
        of_user, of_item = weight.tensor_split([self.width])
        known = torch.addmm(bias + (user * scale) @ of_user, ranks, (ups * user) @ of_user)
        return torch.addmm(known, x, of_item)
