"""A small reward model on tokens, with random weights: to try things out without a pretrained model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_select.types import Float, Int

__all__ = ["RewardEncoder"]


class RewardEncoder(nn.Module):
    """A transformer encoder whose mean over the tokens is scored.

    Args:
        vocabulary: Number of tokens; bytes and three special ones by default.
        width: Size of the hidden states.
        depth: Number of layers.
        heads: Attention heads of a layer.
        context: Tokens of a row at most.
        dropout: Share of hidden units that is dropped in training.
    """

    def __init__(
        self,
        vocabulary: int = 259,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        context: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(
        self, input_ids: Int[Tensor, "rows length"], attention_mask: Int[Tensor, "rows length"]
    ) -> Float[Tensor, "rows"]:
        """Scores; what the mask leaves out makes no difference."""
        places = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        hidden = self.tokens(input_ids) + self.positions(places)
        hidden = self.layers(hidden, src_key_padding_mask=attention_mask == 0)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = torch.where(weight > 0, hidden, 0).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        scores: Tensor = self.head(mean).squeeze(-1)
        return scores
