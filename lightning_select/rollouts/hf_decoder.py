"""A causal language model of transformers as something that reads tokens, all at once or with a memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select.errors import ConfigurationError
from lightning_select.types import Bool, Float, Int

__all__ = ["HFDecoder", "evaluating", "read_all"]


class HFDecoder:
    """The model with what it has read.

    Args:
        model: The model, in evaluation mode.
        takes: Names of the arguments of its forward.
    """

    def __init__(self, model: Any, takes: frozenset[str]) -> None:
        self._model = model
        self._takes = takes
        self._cache: Any = None
        self._rows = 0
        self._device = torch.device("cpu")

    def read(
        self, tokens: Int[Tensor, "rows new"], positions: Int[Tensor, "rows new"], there: Bool[Tensor, "rows all"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Logits after the last of these tokens, which follow on those read before."""
        inputs = _inputs(self._takes, tokens, positions, there, keep=1)
        if self._cache is not None:
            inputs["past_key_values"] = self._cache
        output = self._model(**inputs, use_cache=True)
        self._rows, self._device = len(tokens), tokens.device
        self._cache = getattr(output, "past_key_values", None)
        if self._cache is None:
            rule = "be one that keeps keys and values in past_key_values"
            raise ConfigurationError(f"HFPolicy.model must {rule}, got {type(self._model).__name__}.")
        return output.logits[:, -1]

    def repeat(self, times: int) -> None:
        """Go on with every row that often, its copies next to each other."""
        if times == 1:
            return
        index = torch.arange(self._rows, device=self._device).repeat_interleave(times)
        if isinstance(self._cache, tuple):  # of older versions: a pair for each layer
            self._cache = tuple(tuple(held.index_select(0, index) for held in layer) for layer in self._cache)
        else:
            self._cache.reorder_cache(index)


def read_all(
    model: Any,
    takes: frozenset[str],
    tokens: Int[Tensor, "rows width"],
    positions: Int[Tensor, "rows width"],
    there: Bool[Tensor, "rows width"],
    keep: int,
) -> Float[Tensor, "rows kept vocabulary"]:
    """Logits of the last ``keep`` places; the others are not computed where the model can leave them out."""
    logits: Tensor = model(**_inputs(takes, tokens, positions, there, keep), use_cache=False).logits
    return logits[:, -keep:]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every part is in evaluation mode; afterwards each is in that in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _inputs(takes: frozenset[str], tokens: Tensor, positions: Tensor, there: Tensor, keep: int) -> dict[str, Any]:
    """What the forward of this model takes of it: those with ALiBi make places of the mask."""
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": there.long()}
    if "position_ids" in takes:
        inputs["position_ids"] = positions
    for name in ("logits_to_keep", "num_logits_to_keep"):  # the second one is the older name
        if name in takes:
            inputs[name] = keep
    return inputs
