"""Where a step turns gradients off itself, as seen from a pass in which they are off already.

Such a pass lets a graph of scalars grow from the reductions that it marks. What the step computes from them under
`torch.no_grad` (a running mean of its loss, weights of its losses) has no graph in training and may have none here.
"""

from __future__ import annotations

from types import FrameType

from lightning_select.torch_compat import GRAD_BEGINS, GRAD_ENDS, SET_GRAD_CALL, SET_GRAD_ENTER, SET_GRAD_INIT

__all__ = ["GradientSwitches"]


class GradientSwitches:
    """Follows ``no_grad``, ``enable_grad`` and ``set_grad_enabled`` of a step.

    Where gradients are off already, a block that turns them off sets the same value where it begins and where it ends.
    Who sets it tells the two apart.

    Attributes:
        on: Would there be gradients here in training?
    """

    def __init__(self) -> None:
        self.on = True
        self._outside: list[bool] = []
        self._before = True

    def note(self, mode: bool, caller: FrameType | None) -> None:
        """The step sets whether there are gradients.

        Args:
            mode: Are there to be any?
            caller: The frame that asks for it.
        """
        code = None if caller is None else caller.f_code
        if caller is not None and caller.f_back is not None and code is SET_GRAD_INIT:
            code = caller.f_back.f_code  # no_grad does it by an object of set_grad_enabled
        if code in GRAD_BEGINS:
            self._outside.append(self._before if code is SET_GRAD_ENTER else self.on)  # that object has set it already
            self.on = mode
        elif code in GRAD_ENDS:
            self.on = self._outside.pop() if self._outside else True
        elif code is SET_GRAD_CALL:  # as a decorator it takes back what it has set
            self.on = self._before
        else:
            self._before, self.on = self.on, mode
