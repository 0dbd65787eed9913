"""Turn what a run of the step recorded into signals: row losses, logits, targets, the hidden state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.signals.contract import contract_error
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.layout.rows import Layout, fold, row_values
from lightning_select.signals.recording.made import FUSED, Made, logits_of, made_by_loss
from lightning_select.signals.recording.records import Record, Unreduced
from lightning_select.signals.scales import Scales
from lightning_select.signals.which_logits import CLASSIFYING, FIRST, WhichLogits, class_losses, common_input, trained
from lightning_select.types import Batch, Bool, Float, Shaped

__all__ = ["losses_seen", "put_by_row", "read_signals", "row_losses", "with_attended"]


def row_losses(run: Run, shape: StepShape, scales: Scales | None = None) -> Float[Tensor, "rows"]:
    """The loss of each row: the terms of every reduction of rows, weighted by how much the reduction counts.

    For a linear combination of means over equally long rows, the mean of the row losses is the loss. ``scales`` are
    those of the pieces of the batch, where this run saw one of them.
    """
    if shape.single:
        return run.loss.detach().reshape(1).float()
    total: Tensor | None = None
    known = any(coefficient is not None for coefficient in run.coefficients)
    found = zip(run.capture.records, shape.layouts, run.coefficients, shape.coefficients, strict=True)
    for place, (record, layout, exact, kept) in enumerate(found):
        coefficient = exact if known else kept
        if layout is None or coefficient is None:
            continue
        terms = record.terms_in(layout)
        part = row_values(terms, layout, terms.values.shape[0] if layout.own else run.rows)
        if scales is not None:
            same = run.names[place], run.names[:place].count(run.names[place])  # also where others come and go
            summed = record.reduction.summed
            part = scales.bring(same, part, record.terms, terms.valid, coefficient, summed=summed)
        elif not isinstance(coefficient, float) or coefficient != 1.0:
            part = part * coefficient
        total = part if total is None else total + part
    if total is None:
        raise contract_error(run.module, "a loss that depends on none of the reductions seen before")
    return total.float()


def read_signals(
    run: Run,
    shape: StepShape,
    needs: Collection[str],
    scales: Scales | None = None,
    which: WhichLogits = FIRST,
) -> Signals:
    """The signals of every row of the batch, or of a piece of it with ``scales``.

    Logits are those that ``which`` takes.

    Raises:
        TrainingStepContractError: The loss has rows of its own making, which are not those of the batch.
        ArgumentError: A head was named whose logits are not seen.
    """
    if shape.own_rows:
        sizes = {record.terms.values.shape[0] for record in run.capture.records}
        raise contract_error(run.module, f"loss terms of the module's own making ({sorted(sizes)} for {run.rows} rows)")
    found: dict[str, Any] = {"loss": row_losses(run, shape, scales)}
    if not CLASSIFYING.isdisjoint(needs):
        found |= _classification(run, shape, which)
        which.check(found)
        if len(found) == 1 and CLASSIFYING.intersection(needs) == {"hidden"}:
            found |= common_input(run, shape)
    return Signals(**found)


def losses_seen(run: Run, shape: StepShape) -> list[tuple[int, Tensor]]:
    """How many classes each classification loss of the step has, and its logits."""
    kinds = zip(run.capture.records, shape.layouts, shape.connected, strict=True)
    losses = [
        logits_of(record.reduction.arguments)
        for record, layout, counts in kinds
        if counts and layout is not None and record.reduction.name in ("F.cross_entropy", FUSED)
    ]
    return [(logits.shape[min(1, logits.dim() - 1)], logits) for logits in losses]


def _classification(run: Run, shape: StepShape, which: WhichLogits) -> dict[str, Any]:
    """Logits and what belongs to them, from the classification loss that is meant, or from a hand-written one."""
    places = class_losses(shape.layouts, run.names)
    records = [run.capture.records[place] for place in places]
    seen = [(None if one.reduction.name == FUSED else one.reduction.arguments["input"], one.made) for one in records]
    at = which.place(seen, run.names)
    if at is not None:
        layout = shape.layouts[places[at]]
        return {} if layout is None else _READERS[run.names[places[at]]](records[at], layout, run.rows)
    by_hand = trained(run.capture.unreduced, shape)
    if seen and not which.is_named:
        return {}
    if by_hand:
        at = which.place([(loss.logits, loss.made) for loss in by_hand], run.names)
        return {} if at is None else _by_hand(run, shape, by_hand[at])
    if run.capture.log_softmax is None or which.place([run.capture.log_softmax], run.names) is None:
        return {}
    logits, made = run.capture.log_softmax
    pairs = zip(run.capture.records, shape.layouts, strict=True)
    first, layout = next(((record, layout) for record, layout in pairs if layout is not None), (None, Layout(0)))
    index = run.capture.gathered
    targets = index.squeeze(-1) if index is not None and index.dim() == logits.dim() else None
    if first is not None and layout.masked:
        return _restore(first, logits, targets, None, made, layout, run.rows)
    if logits.dim() < 2 or logits.shape[0] % run.rows:
        return {}
    layout = Layout(0, inner=layout.inner and logits.shape[0] > run.rows)
    return _assemble(logits, targets, None, made, layout, run.rows)


def _by_hand(run: Run, shape: StepShape, loss: Unreduced) -> dict[str, Any]:
    """A cross entropy whose terms were weighted and summed afterwards; a term of zero was masked."""
    logits, targets = loss.logits.movedim(1, -1) if loss.logits.dim() > 2 else loss.logits, loss.targets
    for record, layout in zip(run.capture.records, shape.layouts, strict=True):
        if layout is not None and not targets.is_floating_point() and record.terms.values.shape == targets.shape:
            counted = (record.terms.values != 0) & (targets != loss.ignored)
            return _restore(record, logits, targets.detach().clone(), counted, loss.made, layout, run.rows)
    return {}


def _softmax_loss(record: Record, layout: Layout, rows: int) -> dict[str, Any]:
    arguments, made = record.reduction.arguments, record.made
    logits, targets = logits_of(arguments), arguments["target"].detach().clone()
    if "linear_weight" in arguments:
        made = made_by_loss(arguments)
    elif logits.dim() > 2:
        logits = logits.movedim(1, -1)
        targets = targets.movedim(1, -1) if targets.dim() == logits.dim() else targets
    if logits.dim() == 1:
        return {}
    return _restore(record, logits, targets, record.terms.valid, made, layout, rows)


def _divergence(record: Record, layout: Layout, rows: int) -> dict[str, Any]:
    arguments = record.reduction.arguments
    targets = arguments["target"].detach()
    targets = targets.exp() if arguments.get("log_target") else targets
    return _restore(record, arguments["input"].detach(), targets, None, record.made, layout, rows)


def _sigmoid_loss(record: Record, layout: Layout, rows: int) -> dict[str, Any]:
    arguments, made = record.reduction.arguments, record.made
    if layout.masked:  # there would be no telling a number that was cut away from one that counts
        return {}
    logits, targets = arguments["input"].detach().float(), arguments["target"].detach().clone()
    if record.reduction.name == "F.binary_cross_entropy":
        logits = torch.logit(logits, eps=1e-6)
    found = {"logits": fold(logits, layout, rows), "targets": fold(targets, layout, rows), "link": "sigmoid"}
    if made is not None and made.hidden is not None and made.hidden.shape[:-1].numel() == rows and not layout.axis:
        found |= {"hidden": made.hidden.reshape(rows, -1), "biased": made.biased}
    return found


def _restore(
    record: Record,
    logits: Tensor,
    targets: Tensor | None,
    valid: Tensor | None,
    made: Made | None,
    layout: Layout,
    rows: int,
) -> dict[str, Any]:
    """Logits and what belongs to them, put back to where a mask took them from if one did."""
    cut = record.cut[0] if layout.masked else None
    if cut is None:
        return _assemble(logits, targets, valid, made, layout, rows)
    if logits.dim() != 2 or logits.shape[0] != cut.size:
        return {}

    def put_back(values: Tensor) -> Tensor:
        return _by_row(cut.restore(values), layout, rows, features=values.dim() > 1)

    if made is not None and made.hidden is not None:
        made = replace(made, hidden=put_back(made.hidden))
    counts = put_back(torch.ones_like(logits[:, 0], dtype=torch.bool) if valid is None else valid)
    targets = None if targets is None else put_back(targets)
    return _assemble(put_back(logits), targets, counts, made, Layout(0), rows)


def put_by_row(
    record: Record, values: Shaped[Tensor, "*terms features"], layout: Layout, rows: int
) -> Shaped[Tensor, "rows *tokens features"]:
    """What stands beside the terms of a reduction, rows first; where a mask took it from, if one did."""
    cut = record.cut[0] if layout.masked else None
    return _by_row(values if cut is None else cut.restore(values), layout, rows, features=True)


def with_attended(signals: Signals, batch: Batch) -> Signals:
    """The signals, and which tokens are no padding by the ``attention_mask`` of the batch, if it has one."""
    return replace(signals, attended=_attended(batch, () if signals.head is None else signals.head.shape))


def _attended(batch: Batch, shape: Sequence[int]) -> Bool[Tensor, "rows *tokens"] | None:
    if not isinstance(batch, Mapping) or "decoder_input_ids" in batch or "decoder_attention_mask" in batch:
        return None
    mask, ids, labels = batch.get("attention_mask"), batch.get("input_ids"), batch.get("labels")
    if isinstance(ids, Tensor) and isinstance(labels, Tensor) and (ids.shape != labels.shape):
        return None  # the labels are of another text than the mask
    if not isinstance(mask, Tensor) or len(shape) != 3 or mask.dim() != 2 or mask.shape[0] != shape[0]:
        return None
    # The last token has no next one to predict, so that some steps leave it out.
    return mask[:, : shape[1]].bool() if mask.shape[1] - shape[1] in (0, 1) else None


def _assemble(
    logits: Tensor, targets: Tensor | None, valid: Tensor | None, made: Made | None, layout: Layout, rows: int
) -> dict[str, Any]:
    """Rows first, tokens second where there are any, classes last."""
    found: dict[str, Any] = {"logits": _by_row(logits, layout, rows, features=True)}
    if targets is not None:
        found["targets"] = _by_row(targets, layout, rows, features=targets.dim() == logits.dim())
    if valid is not None:
        found["valid"] = _by_row(valid, layout, rows, features=False)
    if made is not None and made.hidden is not None:
        found |= {"hidden": _by_row(made.hidden, layout, rows, features=True), "biased": made.biased}
    return found


def _by_row(values: Tensor, layout: Layout, rows: int, *, features: bool) -> Tensor:
    last = (values.shape[-1],) if features else ()
    folded = fold(values, layout, rows)
    tokens = folded.numel() // (rows * (last[0] if last else 1))
    several = tokens > 1 or layout.inner is not None or values.dim() - len(last) > 1  # a text may have one token
    return folded.reshape(rows, *((tokens,) if several else ()), *last)


_READERS = {
    "F.cross_entropy": _softmax_loss,
    "F.nll_loss": _softmax_loss,
    FUSED: _softmax_loss,
    "F.multi_margin_loss": _softmax_loss,
    "F.kl_div": _divergence,
    "F.binary_cross_entropy": _sigmoid_loss,
    "F.binary_cross_entropy_with_logits": _sigmoid_loss,
}
