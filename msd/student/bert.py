"""BERT as far as a sentence encoder needs it, without dropout, with the weight names of published checkpoints.

Knows neither texts nor heads. (Devlin et al., arXiv 1810.04805.)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from msd.student.record import BertConfig


class Bert(nn.Module):
    """Embeddings and layers, to be called part by part; the weights are drawn at random."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)


class _Embeddings(nn.Module):
    """Token IDs [B, T] to states [B, T, D]; all texts have the first token type."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids_BT: Tensor) -> Tensor:
        positions = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        states_BTD = self.word_embeddings(ids_BT) + self.token_type_embeddings.weight[0]
        output: Tensor = self.LayerNorm(states_BTD + self.position_embeddings(positions))
        return output


class _Layers(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    """States [B, T, D] to states; `mask_B11T` is added to the attention's logits."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(config), "output": _Output(config, config.hidden_size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = _Output(config, config.intermediate_size)

    def forward(self, states_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        states_BTD = self.attention["output"](self.attention["self"](states_BTD, mask_B11T), states_BTD)
        output: Tensor = self.output(gelu(self.intermediate["dense"](states_BTD)), states_BTD)
        return output


class _SelfAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        query, key, value = (
            part(states_BTD).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        return scaled_dot_product_attention(query, key, value, mask_B11T).transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """Projection back to the states' width, with residual connection and layer normalisation."""

    def __init__(self, config: BertConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, inner: Tensor, states_BTD: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(self.dense(inner) + states_BTD)
        return output
