"""The steps of a module that were probed, by what they compute and what their loss depends on."""

from __future__ import annotations

from lightning_select.signals.layout.probe import Run, StepShape

__all__ = ["Flags", "KnownSteps"]

Names = tuple[str, ...]
Flags = tuple[bool, ...]
"""One for each reduction, or for each weight."""


class KnownSteps:
    """What is known of the steps of one module, shared by all who read them.

    Steps that make the same reductions may add different ones of them up to their loss: a term that is only logged at
    first joins later, and one of frozen weights counts when they are trained. So each is kept by all of this.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Names, Flags, Flags], StepShape] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, names: Names) -> bool:
        return any(names == known for known, *_ in self._found)

    @property
    def sure(self) -> bool:
        """Does a batch of every kind of step that was probed show where rows are?"""
        sure = {names for (names, *_), shape in self._found.items() if shape.sure}
        return all(names in sure for names, *_ in self._found)

    @property
    def first(self) -> StepShape | None:
        """The one that was probed first."""
        return next(iter(self._found.values()), None)

    def add(self, shape: StepShape, reached: Flags | None = None) -> None:
        """Keep a step, also by what another run of it showed of its loss: a probe on few rows may see less."""
        for seen in (shape.reached, reached):
            if seen is not None:
                self._found[shape.names, seen, shape.trained] = shape

    def of(self, names: Names, reached: Flags | None, trained: Flags | None = None) -> StepShape | None:
        """The step that makes these reductions.

        Args:
            names: The reductions.
            reached: Which of them its loss depends on, if known.
            trained: Which weights are trained; ``None``: no matter which.
        """
        for (known, seen, flags), shape in self._found.items():
            if known == names and reached in (None, seen) and trained in (None, flags):
                return shape
        return None

    def judge(self, guess: StepShape, run: Run, trained: Flags, *, examined: bool) -> tuple[bool, Flags | None]:
        """Was this a run of the step ``guess``, and which reductions does its loss depend on, as far as it tells?

        Args:
            guess: What the run was taken for.
            run: A run that asked about ``guess.asked``.
            trained: Which weights are trained.
            examined: Was it the very batch that ``guess`` was found out on?
        """
        if run.names != guess.names or not guess.fits(run, examined=examined):
            kept = (key for key, shape in self._found.items() if key[0] != run.names or shape.fits(run))
            self._found = {key: self._found[key] for key in kept}
            return False, None
        reached = guess.reached_in(run)
        if examined and (guess.whole or reached in (None, guess.reached)):
            self.add(guess, reached)
        elif examined:
            return False, reached  # the whole batch shows other losses than two rows of it
        elif guess.trained != trained:
            return False, None
        elif reached is not None and reached != guess.reached:
            return self.of(run.names, reached, trained) is guess, reached
        return True, reached
