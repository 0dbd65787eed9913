"""The memory of `Diverse`: sketches of chosen rows, first in, first out, on the device and the same for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_select import distributed
from lightning_select.errors import ArgumentError
from lightning_select.types import Float, Int, State

__all__ = ["SketchMemory"]


@dataclass(frozen=True, eq=False)
class SketchMemory:
    """Sketches in the places of a ring.

    Attributes:
        sketches: What is remembered; zero where nothing is yet.
        filled: How many there are.
        write: Where the next one goes.
        made_with: What must stay as it was for sketches to be comparable, whole numbers by name.
        slots: How many rows of each rank enter at a time, and of how many ranks; ``None`` if only those of this rank.
    """

    sketches: Float[Tensor, "capacity dims"]
    filled: Int[Tensor, ""]
    write: Int[Tensor, ""]
    made_with: Mapping[str, int]
    slots: tuple[int, int] | None = None

    @classmethod
    def restored(
        cls, state: State, capacity: int, like: Float[Tensor, "rows dims"], made_with: Mapping[str, int]
    ) -> SketchMemory:
        """The memory that ``state`` holds, or an empty one for sketches as those in ``like``.

        Raises:
            ArgumentError: The state was made with other values.
        """
        if not state:
            nothing = torch.zeros((), dtype=torch.int64, device=like.device)
            return cls(like.new_zeros(capacity, like.shape[1]), nothing, nothing, made_with)
        if not _is_whole(state, like):
            raise ArgumentError(
                "Diverse must go on with a memory of its own, got from the checkpoint one that is damaged or of "
                "another selector. Load the weights alone, and start afresh."
            )
        memory = state["memory"]
        # Numbers are kept as sizes of tensors without content: those can be read without a wait for the device.
        found = {name: state[name].shape[1] if name in state and state[name].dim() == 2 else None for name in made_with}
        found = {**found, "capacity": memory.shape[0], "dims": memory.shape[1]}
        now = {**made_with, "capacity": capacity, "dims": like.shape[1]}
        for name in now:
            if found[name] != now[name]:
                raise ArgumentError(
                    f"Diverse must go on with a memory of {name} {now[name]}, got one of {name} {found[name]} from the "
                    "checkpoint. All values of Diverse but alpha_norm and greedy must stay as they were, and so must "
                    "the number of classes."
                )
        several = "slots" in state and state["slots"].dim() == 3
        slots = (state["slots"].shape[1], state["slots"].shape[2]) if several else None
        return cls(memory, state["filled"], state["write"], made_with, slots)

    @property
    def state(self) -> State:
        """As tensors by name."""
        kept = {"memory": self.sketches, "filled": self.filled, "write": self.write}
        kept |= {name: self.sketches.new_empty(0, number) for name, number in self.made_with.items()}
        return kept if self.slots is None else kept | {"slots": self.sketches.new_empty(0, *self.slots)}

    @property
    def fill(self) -> Float[Tensor, ""]:
        """Share of the places that are in use."""
        return self.filled / self.sketches.shape[0]

    def remember(self, rows: Float[Tensor, "kept dims"]) -> SketchMemory:
        """With the first ``rows`` that it has room for, the oldest going out for them; those with a NaN stay out."""
        capacity = self.sketches.shape[0]
        known = rows.isfinite().all(dim=1)
        order = known.argsort(descending=True, stable=True)[:capacity]
        rows, known = rows.index_select(0, order), known.index_select(0, order)
        places = (self.write + torch.arange(rows.shape[0], device=rows.device)) % capacity
        new = torch.where(known.unsqueeze(1), rows, self.sketches.index_select(0, places))
        return replace(
            self,
            sketches=self.sketches.index_copy(0, places, new),
            filled=(self.filled + known.sum()).clamp(max=capacity),
            write=(self.write + known.sum()) % capacity,
        )

    def remember_all(self, rows: Float[Tensor, "kept dims"], most: int) -> SketchMemory:
        """`remember` the rows of all ranks: the first of every rank, then the second, and so on.

        Waits for the device once, to settle how many rows a rank may have: the largest ``most`` of any.
        """
        ranks = distributed.world_size()
        if ranks == 1:
            return self.remember(rows)
        slots = self.slots
        if slots is None or slots[1] != ranks:
            slots = min(distributed.largest(most, rows.device), self.sketches.shape[0]), ranks
        everyone = distributed.gather_rows(rows[: slots[0]], slots[0])
        return replace(self, slots=slots).remember(everyone.transpose(0, 1).flatten(0, 1))


def _is_whole(state: State, like: Float[Tensor, "rows dims"]) -> bool:
    """Are the parts there, of the right kinds? To ask this waits for nothing."""
    if not {"memory", "filled", "write"} <= set(state):
        return False
    places = (state["filled"], state["write"])
    fits = state["memory"].dim() == 2 and state["memory"].dtype == like.dtype
    return fits and all(one.shape == () and one.dtype == torch.int64 for one in places)
