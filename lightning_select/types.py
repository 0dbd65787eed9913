"""The vocabulary shared by scores, selectors, weightings and callbacks.

Shape annotations are jaxtyping's. jaxtyping is a development tool here, so without it the same names stand for
"any tensor" and the package imports all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, Shaped
    except ImportError:

        class _AnyShape:
            """Stands in for a jaxtyping dtype: ``Float[Tensor, "rows"]`` becomes ``Tensor``."""

            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = Num = Shaped = _AnyShape

__all__ = ["Batch", "Bool", "Float", "Int", "Num", "Selection", "Shaped", "State", "Tensor"]

Batch = Any
"""Whatever the user's ``DataLoader`` yields."""

State = Mapping[str, Tensor]
"""What a selector remembers from step to step: named tensors, kept and checkpointed by the callback."""


@dataclass(frozen=True)
class Selection:
    """Which rows of a candidate batch are kept, and how strongly each one counts.

    Attributes:
        index: Positions of the kept rows in the candidate batch, int64. May repeat a row only if the selector that
            made it draws with replacement.
        weight: Weight of each kept row, or ``None`` where every row counts the same.
        state: What the selector wants to find again at its next call.
        metrics: Numbers to log, by name.
    """

    index: Int[Tensor, "kept"]
    weight: Float[Tensor, "kept"] | None = None
    state: State = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
