"""Where a step turns gradients off itself, as seen from a pass in which they are off already.

Such a pass lets a graph of scalars grow from the reductions that it marks. What the step computes from them under
`torch.no_grad` (a running mean of its loss, weights of its losses) has no graph in training and may have none here.
"""

from __future__ import annotations

from types import FrameType

from lightning_select.torch_compat import NO_GRAD_CODE, SET_GRAD_INIT

__all__ = ["GradientSwitches"]


class GradientSwitches:
    """Follows the blocks of ``no_grad`` and ``enable_grad`` of a step.

    Where gradients are off already, a block that turns them off sets the same value where it begins and where it ends.
    Who sets it tells the two apart. ``set_grad_enabled`` is passed over: a step that sets what it has found before
    (``set_grad_enabled(is_grad_enabled())``, an optimizer inside of it) has found them off, which tells nothing.

    Attributes:
        on: Would there be gradients here in training?
    """

    def __init__(self) -> None:
        self.on = True
        self._outside: list[bool] = []

    def note(self, mode: bool, caller: FrameType | None) -> None:
        """The step sets whether there are gradients.

        Args:
            mode: Are there to be any?
            caller: The frame that asks for it.
        """
        if caller is not None and caller.f_code is SET_GRAD_INIT:
            caller = caller.f_back  # no_grad does it by an object of set_grad_enabled
        begins = None if caller is None else NO_GRAD_CODE.get(caller.f_code)
        if begins:
            self._outside.append(self.on)
            self.on = mode
        elif begins is not None and self._outside:
            self.on = self._outside.pop()
