"""A wrap around a method of one object, which copies of that object do not have."""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable
from operator import itemgetter
from typing import Any

__all__ = ["Wrap", "while_there"]


def while_there(one: Any, undo: Callable[[Any], None]) -> Callable[[], None]:
    """``undo(one)`` as a function that does not hold what it is about.

    A loader that is made anew in every epoch would otherwise keep its workers until the end of the fit.
    """
    there = weakref.ref(one)

    def undone() -> None:
        if (found := there()) is not None:
            undo(found)

    return undone


class Wrap(functools.partial):  # type: ignore[type-arg]
    """Stands in an object's ``__dict__`` in place of a method; in a copy stands what the copy would have without us.

    Whoever copies or pickles the object (an average of weights, ``torch.save(module)``) means the object, not us. A
    partial costs no more per call than a function.

    Args:
        around: Called with the original method, then the arguments.
        owner: The object.
        name: Name of the method.
    """

    _owner: Any
    _name: str
    _held: dict[str, Any]
    _copying: bool
    interception: Any  # whose wrap it is, where it is one of those that all our callbacks of a fit share

    def __new__(cls, around: Callable[..., Any], owner: Any, name: str) -> Wrap:
        """Not yet in its place."""
        original = getattr(owner, name)
        wrap = super().__new__(cls, around, original)
        functools.update_wrapper(wrap, original)
        # Lightning looks one level below a wrap to see which arguments the step takes.
        wrap.__wrapped__ = getattr(original, "__wrapped__", original)  # type: ignore[attr-defined]
        wrap._owner, wrap._name, wrap._copying = owner, name, False
        wrap._held = {name: vars(owner)[name]} if name in vars(owner) else {}
        return wrap

    def put(self) -> None:
        """Take the place of the method."""
        vars(self._owner)[self._name] = self

    def take_off(self) -> None:
        """Put back what was there, or leave it to the wrap above us, unless somebody else has taken our place.

        A wrap above us still calls us until it is taken off itself, so ``around`` must let everything through by then.
        """
        attributes = vars(self._owner)
        above = attributes.get(self._name)
        if above is self:
            del attributes[self._name]
            attributes.update(self._held)
        while isinstance(above, Wrap):
            if above._held.get(self._name) is self:
                above._held = dict(self._held)
            above = above._held.get(self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The method of the copy that is being made of the owner."""
        if self._held:
            return copy.deepcopy(self._held[self._name], memo)
        if self._copying:
            return self.args[0]  # the owner copies itself and keeps the copy to itself
        self._copying = True
        try:
            twin = copy.deepcopy(self._owner, memo)
        finally:
            self._copying = False
        method = inspect.getattr_static(type(twin), self._name)
        return method.__get__(twin, type(twin)) if hasattr(method, "__get__") else method

    def __reduce__(self) -> Any:
        """The method of whatever the owner is loaded as; pickle has the owner by now, or brings it along."""
        if self._held:
            return itemgetter(0), ((self._held[self._name],),)
        return getattr, (self._owner, self._name)
