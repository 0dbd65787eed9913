"""A small decoder: pre-norm blocks, learned positions, attention by a mask, and a cache of keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select.types import Bool, Float, Int

__all__ = ["Cache", "TinyTransformer"]


class Cache:
    """Keys and values of the tokens read so far, layer by layer."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens of a row that are held, padding included."""
        return self._held[0][0].shape[2] if self._held else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Hold these too; all keys and values of the layer."""
        if layer in self._held:
            before = self._held[layer]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        self._held[layer] = keys, values
        return keys, values

    def repeat(self, times: int) -> None:
        """Every row that often, its copies next to each other."""
        self._held = {
            layer: (keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0))
            for layer, (keys, values) in self._held.items()
        }


class _Block(nn.Module):
    def __init__(self, layer: int, width: int, heads: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width, bias=False)
        self.write = nn.Linear(width, width, bias=False)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor, sees: Tensor, cache: Cache | None) -> Tensor:
        parts = self.read(self.norm_attention(hidden)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=sees)
        hidden = hidden + self.write(mixed.transpose(1, 2).flatten(2))
        fed: Tensor = hidden + self.feed(self.norm_feed(hidden))
        return fed


class TinyTransformer(nn.Module):
    """Logits of the next token at each place.

    It has no dropout, and does the same in training as in evaluation.

    Args:
        tokens: Size of the vocabulary.
        width: Size of the hidden states, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Number of attention heads.
        context: Number of positions.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(layer, width, heads) for layer in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.1)

    def forward(
        self,
        tokens: Int[Tensor, "rows new"],
        positions: Int[Tensor, "rows new"],
        there: Bool[Tensor, "rows all"],
        cache: Cache | None = None,
        keep: int = 0,
    ) -> Float[Tensor, "rows kept vocabulary"]:
        """Read tokens, after those in the cache.

        Args:
            tokens: What is new.
            positions: Place of each in its text.
            there: Which tokens are no padding, those in the cache included.
            cache: What was read before; the new tokens are added to it.
            keep: Logits of the last so many places only; 0 is all of them.
        """
        sees = self._sees(there, tokens.shape[1])
        hidden = self.embed(tokens) + self.place(positions)
        for block in self.blocks:
            hidden = block(hidden, sees, cache)
        logits: Tensor = self.head(self.norm(hidden[:, -keep:]))
        return logits

    def _sees(self, there: Tensor, new: int) -> Tensor:
        """Which tokens each new one looks at: itself and the earlier ones that are there.

        Padding looks at itself too, as an average over nothing would be NaN, and NaN times zero still is.
        """
        place = torch.arange(there.shape[1], device=there.device)
        queries = place[place.shape[0] - new :].unsqueeze(1)
        return ((place <= queries) & there[:, None, None]) | (place == queries)
