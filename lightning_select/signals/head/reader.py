"""Find the output head of an untouched step, and read it without computing logits.

The first scoring pass of a fit runs in full and shows the logits. A second one replaces the outputs of the linear
layers with as many outputs as there are classes and ends at the loss; what it found is compared with the logits of the
first. Only if they are the same do later passes end at the loss. Otherwise passes go on in full, which is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from lightning_select.compat import rank_zero_info
from lightning_select.errors import ArgumentError
from lightning_select.signals.base import Signals
from lightning_select.signals.equality import same_values
from lightning_select.signals.head.cache import HeadCache
from lightning_select.signals.head.capture import HeadCapture, HeadReached, condition, weights_of
from lightning_select.signals.head.head import Head
from lightning_select.signals.head.named import named_weights
from lightning_select.signals.head.terms import Linear
from lightning_select.signals.layout.probe import StepShape
from lightning_select.signals.reading import put_by_row
from lightning_select.signals.recording.records import Record
from lightning_select.signals.recording.terms import Terms
from lightning_select.signals.which_logits import FIRST, WhichLogits

__all__ = ["HeadReader"]

_SHOWN = frozenset({"head", "hidden", "targets", "valid", "ids"})
"""What a pass that ends at the loss can tell."""

_IGNORED = -100
"""What torch ignores unless told otherwise."""

_TRIES, _BATCHES = 8, 3
"""How many layers are passed over in one batch, and how many batches may show nothing (all of one is masked)."""
_COMPARED = 64
"""Classes at either end whose logits are compared; half precision rounds the ones that the step computed."""
_TOLERANCE = 0.02


class HeadReader:
    """Knows how to read the output head of one module's step.

    Args:
        module: The LightningModule.
        strategy: Name of the Trainer's strategy if it shards weights, which are whole only while their layer runs.
        name: Submodule that is the output head; ``None`` looks for it.

    Raises:
        ArgumentError: A head was named where weights are sharded.
    """

    def __init__(self, module: nn.Module, strategy: str, name: str | None) -> None:
        self.cache = HeadCache()
        self._module = module
        self._name = name
        self._weights: frozenset[int] | None = None
        self._classes = 0
        self._used: frozenset[int] = frozenset()
        self._known: set[frozenset[int]] = set()
        self._passed_over: frozenset[int] = frozenset()
        self._found: bool | None = None
        self._patience = _BATCHES
        self._strategy = strategy
        self._which: WhichLogits | None = None
        if strategy and name is not None:
            self._refuse_sharded()

    def which(self, needs: Collection[str]) -> WhichLogits:
        """Whose logits are meant; before it is known whether the head can be read, those of the first loss.

        Raises:
            ArgumentError: A head was named that the module does not have.
        """
        if self._which is None:
            named = None if self._name is None else named_weights(self._module, self._name)[0]
            self._which = WhichLogits(named, self.refuse)
        return FIRST if self.wants_trial(needs) else self._which

    def can_read(self, needs: Collection[str]) -> bool:
        """Will a pass that ends at the loss do?"""
        return bool(self._found) and "head" in needs and _SHOWN.issuperset(needs)

    def wants_trial(self, needs: Collection[str]) -> bool:
        """Is it not known yet whether such a pass will do?"""
        if self._strategy and self._found is None and "head" in needs:
            self._refuse_sharded()
        return self._found is None and "head" in needs and _SHOWN.issuperset(needs)

    def may_read(self, needs: Collection[str]) -> bool:
        """Will such a pass do, or is that still open?"""
        return self.can_read(needs) or self.wants_trial(needs)

    def refuse(self, reason: str) -> None:
        """A head that was named must be read; the logits may be those of another.

        Raises:
            ArgumentError: One was named.
        """
        if self._name is not None:
            self._give_up(reason)

    def capture(self, shape: StepShape, before_write: Callable[..., None], others: Collection[int] = ()) -> HeadCapture:
        """Watches one pass; with ``others``, one that looks for another head with so many classes."""
        module = self._module
        return HeadCapture(
            others or (self._classes,),
            weights=self._weights,
            passed_over=self._passed_over,
            connected=shape.connected,
            before_write=before_write,
            beyond=self._used if others else frozenset(),
            intact={id(weight): condition(weight) for weight in chain(module.parameters(), module.buffers())},
        )

    def read(self, capture: HeadCapture, reached: HeadReached, shape: StepShape, rows: int) -> Signals | None:
        """What the pass tells, or ``None`` where the rows are not where they were."""
        self._used = weights_of(reached.term)
        if self._found and self._used not in self._known:
            self._found = None  # another head than was looked at: look again
            return None
        position, arguments = len(capture.records), reached.reduction.arguments
        names = (*(record.reduction.name for record in capture.records), reached.reduction.name)
        if names != shape.names[: position + 1] or (rows > 1 and (shape.single or not shape.sure)):
            return None
        layout, targets = shape.layouts[position], arguments["target"].detach().clone()
        ignored = _IGNORED if arguments.get("ignore_index") is None else arguments["ignore_index"]
        terms = Terms(torch.zeros(targets.shape, device=targets.device), None, (targets, ignored))
        record = Record(reached.reduction, terms.values, cuts=capture.cuts, _terms=terms)
        if layout is None or layout.own or not shape.fits_one(record, layout, rows):
            return None
        if layout.masked and targets.dim() != 1:
            return None  # nobody knows what the mask took
        term = reached.term.carry(lambda values: put_by_row(record, values.movedim(reached.axis, -1), layout, rows))
        places = put_by_row(record, targets.unsqueeze(-1), layout, rows)
        counts = put_by_row(record, (targets != ignored).unsqueeze(-1), layout, rows)
        hidden = term.parts[0].hidden if isinstance(term, Linear) else None
        head = Head(term, (*places.shape[:-1], reached.classes), self.cache)
        return Signals(head=head, targets=places[..., 0], valid=counts[..., 0], hidden=hidden)

    def try_out(
        self,
        run: Callable[..., tuple[Signals | str | None, HeadCapture]],
        full: Signals,
        losses: Sequence[tuple[int, Tensor]],
    ) -> Signals | None:
        """Find out which layers make the logits, and whether a pass that ends at the loss shows just those.

        Args:
            run: Makes such a pass; says why if it cannot.
            full: What the full pass showed.
            losses: How many classes each of its classification losses has, and its logits.

        Returns:
            What such a pass tells of this batch, or ``None`` where it will not do.

        Raises:
            ArgumentError: Several heads feed several losses, and none was named; the one named cannot be read; or a
                head feeds several losses that see different tokens.
        """
        if full.logits is None or full.link != "softmax":
            self._give_up("the loss of the step is none over classes")
            return None
        self._classes = full.logits.shape[-1]
        if self._name is not None:
            self._weights, self._classes = named_weights(self._module, self._name)
        reason = "no linear layer makes them"
        for first in range(_TRIES):
            self._passed_over = frozenset(range(first))
            seen, _ = run()
            if isinstance(seen, Signals) and self._agrees(seen, full):
                self._only(run, frozenset(count for count, _ in losses) if len(losses) > 1 else frozenset())
                self._known.add(self._used)
                self._found = True
                return seen
            if seen is None:
                self._patience -= 1
                if self._name is None and self._patience and first == 0:
                    return None
                break
            reason = seen if isinstance(seen, str) else "what was found are other numbers"
        pieces = [logits for count, logits in losses if count == self._classes]
        if self._name is None and not all(same_values(pieces[0], other) for other in pieces[1:]):
            raise self._several(len(pieces))
        self._give_up(reason)
        return None

    def _refuse_sharded(self) -> None:
        self._give_up(f"{self._strategy} shards it, so that its weight is whole only while it runs")

    def _several(self, count: int) -> ArgumentError:
        return ArgumentError(
            f"{type(self._module).__name__}.training_step must show all logits of a row in one loss, got {count} "
            "losses that see different logits of as many classes. Define selection_step(batch) and return "
            "Signals(head=Head.linear(hidden, weight), valid=...)."
        )

    def _only(self, run: Callable[..., tuple[Signals | str | None, HeadCapture]], counts: frozenset[int]) -> None:
        """There is no second head whose losses someone might mean, and no second piece of the same logits."""
        if not counts:
            return
        module, first = type(self._module).__name__, self._used
        _, capture = run(others=counts)
        second, self._used = self._used, first
        if len(capture.passed) > 1:
            raise self._several(len(capture.passed))
        if self._name is None and second != first:
            names = {id(weight): name for name, weight in self._module.named_parameters()}
            heads = [", ".join(sorted(names.get(key, "?") for key in used)) for used in (first, second)]
            raise ArgumentError(
                f"BatchSelection.head must name the output head where a step has several, got None and {heads[0]} and "
                f"{heads[1]} in {module}. Give the name of one of the two layers."
            )

    def _agrees(self, seen: Signals, full: Signals) -> bool:
        if self._name is not None or seen.head is None or full.logits is None:
            return True
        if seen.head.shape != full.logits.shape:
            return False
        width = min(_COMPARED, self._classes)
        for begin in (0, self._classes - width):
            there, found = (
                full.logits[..., begin : begin + width].float(),
                seen.head.logits(begin, begin + width).float(),
            )
            if not torch.linalg.vector_norm(there - found) <= _TOLERANCE * torch.linalg.vector_norm(there):
                return False
        return True

    def _give_up(self, reason: str) -> None:
        self._found = False
        name = type(self._module).__name__
        if self._name is not None:
            raise ArgumentError(
                f"BatchSelection.head must name the output head of {name}, got {self._name!r}, which cannot be read: "
                f"{reason}. Leave it out, to let it be looked for."
            )
        rank_zero_info(
            f"{name}: rows are scored with their logits, which takes more memory and time than the output head alone. "
            f"It cannot be used: {reason}."
        )
