"""Diverse (UDS): useful rows whose predictions differ from those of the rows that were chosen of late.

The score of a row is its utility plus ``alpha_norm`` times its mean distance to a memory of sketches: its logits, a
matrix of tokens by classes, reduced on both sides to a few numbers that keep distances. Each side is multiplied by
random signs, then by some rows of the real orthonormal Fourier matrix. The rows come as pairs of a cosine and a sine of
the same frequency, drawn without replacement: so a difference in a single logit keeps its length exactly, and any other
difference keeps its square on average over the signs.

Know before use: rows are compared with the past, not with each other, so two copies in one batch may both be chosen.
``alpha_norm`` is in units of true distances between logits, and results hinge on it.

References:
    Zou, Mao, Qu, Wang and Ji, "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025,
    arXiv:2510.16882: the inter-sample score of UDS. Official code: github.com/gfyddha/UDS.

Deviations:
    The official projection is neither orthonormal nor drawn without replacement: its distances grow with
    ``sqrt(tokens * classes) / 2``, so its alpha means something else for each model and length. Its default of 2.5e-3
    is 11 in true distances for 512 tokens and 152064 classes, and its MMLU script's 1.5e-3 is the 6.6 that is the
    default here. Masked tokens count as zero, prompt and padding among them; the official code takes all as they come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.schedule import Anneal
from lightning_select.types import Bool, Float, Int, Selection, State

__all__ = ["Diverse", "diverse", "sketch"]

_AT_ONCE = 2**26
"""How many logits are brought to float32 at a time: a quarter of a gigabyte."""


def diverse(
    utility: Float[Tensor, "rows"],
    sketches: Float[Tensor, "rows dims"],
    memory: Float[Tensor, "capacity dims"],
    filled: Int[Tensor, ""],
    alpha_norm: float,
) -> Float[Tensor, "rows"]:
    """``u + alpha_norm * v`` with v the mean distance to the first ``filled`` sketches in memory, 0 if there is none.

    Minus infinity where utility or sketch are not finite.
    """
    distances = torch.cdist(sketches, memory, compute_mode="donot_use_mm_for_euclid_dist")  # exact for copies
    there = torch.arange(memory.shape[0], device=memory.device) < filled
    novelty = torch.where(there, distances, 0.0).sum(dim=1) / filled.clamp(min=1)
    total = utility.float() + alpha_norm * novelty
    # Without a memory the distances say nothing of a sketch that is not finite, which must not enter it.
    return torch.where(total.isfinite() & sketches.isfinite().all(dim=1), total, -torch.inf)


def sketch(
    logits: Float[Tensor, "rows *tokens classes"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    vocabulary_dims: int = 128,
    token_dims: int = 8,
    max_tokens: int = 512,
    seed: int = 0,
) -> Float[Tensor, "rows dims"]:
    """Logits as a few numbers, such that distances between rows are on average those between their logits.

    A side shorter than its number of dimensions is left as it is; so is the side of tokens where rows have none. The
    projection depends on nothing but the sizes, the seed and the kind of device.

    Raises:
        ArgumentError: A row has more than ``max_tokens`` tokens.
    """
    rows, classes = logits.shape[0], logits.shape[-1]
    matrices = logits.detach().reshape(rows, -1, classes)
    tokens = matrices.shape[1]
    padded = max_tokens if logits.dim() > 2 else 1
    if tokens > padded:
        raise ArgumentError(f"Diverse.max_tokens must be at least the tokens of a row ({tokens}), got {max_tokens}.")
    generator = torch.Generator(logits.device).manual_seed(seed)
    right = _projection(classes, vocabulary_dims, generator)
    left = _projection(padded, token_dims, generator)[:, :tokens]  # what is padded is zero
    with torch.autocast(logits.device.type, enabled=False):
        parts = torch.split(matrices, max(1, _AT_ONCE // max(1, tokens * classes)))
        narrow = torch.cat([part.float() if classes <= vocabulary_dims else part.float() @ right.T for part in parts])
        if valid is not None:
            narrow = torch.where(valid.reshape(rows, tokens, 1), narrow, 0.0)
        return (left @ narrow).flatten(1)


def _projection(size: int, dims: int, generator: torch.Generator) -> Float[Tensor, "dims size"]:
    """``dims`` rows of an orthonormal Fourier matrix with random signs, scaled; the identity where that is smaller."""
    if size <= dims:
        return torch.eye(size, device=generator.device)
    signs = torch.where(torch.rand(size, generator=generator, device=generator.device) < 0.5, -1.0, 1.0)
    # Frequency 0, and size / 2 where there is one, have a cosine but no sine.
    frequency = 1 + torch.rand((size - 1) // 2, generator=generator, device=generator.device).argsort()[: dims // 2]
    place = torch.arange(size, device=generator.device)
    angle = (frequency.unsqueeze(1) * place % size).float() * (2 * math.pi / size)
    return torch.cat([angle.cos(), angle.sin()]) * signs * math.sqrt(2 / dims)


@dataclass(frozen=True)
class Diverse:
    """Keep the rows of largest ``utility + alpha_norm * mean distance`` to the memory; then remember them.

    The memory is first in, first out; of more rows than it holds, it takes the best. Equal totals: the earlier row.
    Rows without a finite score come last and are not remembered. Each process has a memory of its own.

    Args:
        alpha_norm: Weight of the distance against the score, in units of the score per unit of distance between logits.
            May be an `Anneal`.
        capacity: Number of sketches in memory.
        vocabulary_dims: Numbers to which the classes of a token are reduced; even.
        token_dims: Numbers to which the tokens of a row are reduced; even.
        max_tokens: Most tokens that a row may have. Padding on the right does not matter, padding on the left does.
        seed: Seed of the projection.

    Raises:
        ArgumentError: A value is out of range, a row is too long, or the memory of a checkpoint is of other sizes.
        MissingSignalError: The step shows no logits.
    """

    alpha_norm: float | Anneal = 6.6
    capacity: int = 1024
    vocabulary_dims: int = 128
    token_dims: int = 8
    max_tokens: int = 512
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        alpha = self.alpha_norm
        for value in (alpha.begin, alpha.end) if isinstance(alpha, Anneal) else (alpha,):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise ArgumentError(f"Diverse.alpha_norm must be a finite number, at least 0, got {value!r}.")
        for name, least in (("capacity", 1), ("vocabulary_dims", 2), ("token_dims", 2), ("max_tokens", 1), ("seed", 0)):
            size, even = getattr(self, name), name.endswith("_dims")
            if isinstance(size, bool) or not isinstance(size, int) or size < least or (even and size % 2):
                kind = "an even" if even else "a whole"
                raise ArgumentError(f"Diverse.{name} must be {kind} number, at least {least}, got {size!r}.")

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows. Called by hand, an `Anneal` counts as its begin."""
        alpha = self.alpha_norm.begin if isinstance(self.alpha_norm, Anneal) else self.alpha_norm
        sketches = sketch(
            context.signals.need("logits", "Diverse"),
            context.signals.valid,
            vocabulary_dims=self.vocabulary_dims,
            token_dims=self.token_dims,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        memory, filled, write = self._memory(context.state, sketches)
        total = diverse(scores, sketches, memory, filled, alpha)
        chosen = total.argsort(descending=True, stable=True)[:count]
        state = self._remember(memory, filled, write, sketches, total, chosen[: self.capacity])
        return Selection(chosen.sort().values, state=state)

    def _memory(
        self, state: State, sketches: Float[Tensor, "rows dims"]
    ) -> tuple[Float[Tensor, "capacity dims"], Int[Tensor, ""], Int[Tensor, ""]]:
        """Sketches, how many there are, and where the next one goes."""
        if not state:
            nothing = torch.zeros((), dtype=torch.int64, device=sketches.device)
            return sketches.new_zeros(self.capacity, sketches.shape[1]), nothing, nothing
        memory, expected = state["memory"], (self.capacity, sketches.shape[1])
        if memory.shape != expected:
            raise ArgumentError(
                f"Diverse must go on with a memory of {expected} (capacity, dims), got {tuple(memory.shape)}. "
                "Sizes, the number of classes and max_tokens must stay as they were."
            )
        return memory, state["filled"], state["write"]

    def _remember(
        self,
        memory: Float[Tensor, "capacity dims"],
        filled: Int[Tensor, ""],
        write: Int[Tensor, ""],
        sketches: Float[Tensor, "rows dims"],
        total: Float[Tensor, "rows"],
        chosen: Int[Tensor, "kept"],
    ) -> State:
        """The memory with the chosen rows in it, best first; those without a finite total come last and stay out."""
        places = (write + torch.arange(chosen.shape[0], device=memory.device)) % self.capacity
        known = total.index_select(0, chosen).isfinite()
        new = torch.where(known.unsqueeze(1), sketches.index_select(0, chosen), memory.index_select(0, places))
        return {
            "memory": memory.index_copy(0, places, new),
            "filled": (filled + known.sum()).clamp(max=self.capacity),
            "write": (write + known.sum()) % self.capacity,
        }
