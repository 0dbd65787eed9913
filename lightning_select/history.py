"""Running statistics of every row of a dataset: what the model said about the row, and how long ago.

References:
    Hu et al., "VADE: Variance-Aware Dynamic Sampling via Online Sample-Level Difficulty Estimation for Multimodal RL",
    arXiv:2511.18902: counts of success fade by one factor where a row was tried, by another where it was not.
    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
    arXiv:1812.05159: a forgetting event is a row that was right when it was last seen and is wrong now.

Deviations:
    Counts fade when they are read or written, which gives the same numbers as fading all rows in every step. A row
    that comes more than once in a step is combined first, as one visit that holds all its attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.states import columns_of
from lightning_select.types import Bool, Float, Int, Num, Shaped, Tensor
from lightning_select.visits import Visits, check_call, fitting, place, visits

__all__ = ["SampleHistory"]

_GROUPS = ("loss", "success", "forgetting")
_STATISTICS: dict[str, tuple[str, torch.dtype, float]] = {  # group, dtype, value where it is not known
    "count": ("", torch.int32, 0),
    "last_step": ("", torch.int32, -1),
    "last_loss": ("loss", torch.float32, float("nan")),
    "ema_loss": ("loss", torch.float32, float("nan")),
    "successes": ("success", torch.float64, 0),
    "failures": ("success", torch.float64, 0),
    "forgettings": ("forgetting", torch.int16, 0),
    "last_correct": ("forgetting", torch.int8, -1),
}


class SampleHistory:
    """Running statistics of every row of a dataset, on the device of the model.

    Memory in bytes per row: 8 always (``count``, ``last_step``), 8 for ``loss``, 16 for ``success`` (8 on mps, which
    has no float64), 3 for ``forgetting``. 1e8 rows take 1.6 GB with ``loss``, 2.4 GB with ``success``, 1.1 GB with
    ``forgetting``, 3.5 GB with all three, and `state_dict` as much again while it is held.

    The id -1 is padding: ignored when written, and read as a row never seen. Other ids outside the dataset are an
    error on the CPU. On a device looking at a value would wait for it, so such ids are ignored there, counts of success
    that are negative or not finite add nothing, and a ``keep`` outside [0, 1] is 1.

    Args:
        rows: Length of the dataset.
        columns: What is kept beside ``count`` and ``last_step``: some of ``loss``, ``success``, ``forgetting``.
        decay: How much of the running mean of the loss stays when a new loss comes in.
        forget: How much of the counts of success stays after a step in which the row was not tried.
        device: Where the statistics live.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> history = SampleHistory(4)
        >>> history.update(torch.tensor([2, 0, 2, -1]), step=0, loss=torch.tensor([1.0, 5.0, 3.0, 9.0]))
        >>> history.last_loss.tolist(), history.count.tolist()
        ([5.0, nan, 2.0, nan], [1, 0, 2, 0])
    """

    count: Int[Tensor, "rows"]  # visits
    last_step: Int[Tensor, "rows"]  # step of the last visit; -1: never
    last_loss: Float[Tensor, "rows"]  # the last finite loss; NaN: none yet
    ema_loss: Float[Tensor, "rows"]  # running mean of the finite losses; NaN: none yet
    successes: Float[Tensor, "rows"]  # as they stood after the last visit; `beta` tells how they stand now
    failures: Float[Tensor, "rows"]
    forgettings: Int[Tensor, "rows"]  # how often the row was right and then wrong; stops at 32,767
    last_correct: Int[Tensor, "rows"]  # was it right when last seen? 1 or 0; -1: not known yet

    def __init__(
        self,
        rows: int,
        *,
        columns: Collection[str] = ("loss",),
        decay: float = 0.9,
        forget: float = 1.0,
        device: torch.device | str | None = None,
    ) -> None:
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ArgumentError(f"SampleHistory.rows must be a whole number, at least 1, got {rows!r}.")
        if isinstance(columns, str) or not set(columns) <= set(_GROUPS):
            raise ArgumentError(f"SampleHistory.columns must be some of {', '.join(_GROUPS)}, got {columns!r}.")
        if not 0 <= decay < 1:
            raise ArgumentError(f"SampleHistory.decay must be in [0, 1), got {decay}.")
        if not 0 <= forget <= 1:
            raise ArgumentError(f"SampleHistory.forget must be in [0, 1], got {forget}.")
        self.rows, self.decay, self.forget = rows, float(decay), float(forget)
        self.columns = tuple(group for group in _GROUPS if group in columns)
        # One row more than the dataset has: what is not to be remembered is written there, and nobody reads it.
        self._table = {
            name: torch.full((rows + 1,), unseen, dtype=fitting(dtype, device), device=device)
            for name, (group, dtype, unseen) in _STATISTICS.items()
            if not group or group in self.columns
        }
        self._looks = self.device.type == "cpu"  # may values be looked at?

    def __getattr__(self, name: str) -> Tensor:
        table = vars(self).get("_table", {})
        if name not in table:
            kept = f", which keeps {', '.join(table)}" if table else ""
            raise AttributeError(f"SampleHistory must keep a statistic to show it, got '{name}'{kept}.")
        return table[name][: self.rows]

    @property
    def device(self) -> torch.device:
        """Where the statistics live."""
        return self._table["count"].device

    @property
    def nbytes(self) -> int:
        """Bytes that the statistics of all rows take."""
        return sum(self.rows * column.element_size() for column in self._table.values())

    @property
    def seen(self) -> Bool[Tensor, "rows"]:
        """Which rows were visited."""
        return self.count > 0

    @torch.no_grad()
    def update(
        self,
        ids: Int[Tensor, "k"],
        step: int,
        *,
        loss: Float[Tensor, "k"] | None = None,
        successes: Num[Tensor, "k"] | None = None,
        failures: Num[Tensor, "k"] | None = None,
        correct: Shaped[Tensor, "k"] | None = None,
        keep: float | Float[Tensor, "k"] = 1.0,
    ) -> None:
        """Enter what one step said about the rows ``ids``; once per step, with the rows of all ranks.

        Of a row that comes more than once, losses, ``correct`` and ``keep`` are averaged and attempts summed, before
        anything decays; ``count`` rises by the number of times. The order of the rows does not matter.

        Args:
            ids: Positions in the dataset; -1 is padding.
            step: Optimiser step.
            loss: Loss of each row. One that is not finite is a visit that changes no loss.
            successes: Successful attempts at each row, fractions allowed; together with ``failures``.
            failures: Failed attempts at each row.
            correct: Was the row right, or its share of right answers, right above one half. NaN says nothing.
            keep: How much of the row's counts of success stays in this step, in place of ``forget``.

        Raises:
            ArgumentError: A shape, a column or (on the CPU) a value is not as said here.
            RowIdError: Ids are not whole numbers, or (on the CPU) outside the dataset.
        """
        given = {"loss": loss, "successes": successes, "failures": failures, "correct": correct}
        given["keep"] = keep if isinstance(keep, Tensor) else None
        signals = {name: value for name, value in given.items() if value is not None}
        check_call(step, signals, keep, self.columns)
        if isinstance(ids, Tensor) and ids.shape[:1] == (0,):
            return
        now = visits(ids, signals, rows=self.rows, device=self.device, look=self._looks)
        if "successes" in signals or ("success" in self.columns and self.forget < 1):
            self._fade_and_add(now, step, now.signals.get("keep", keep))
        if "loss" in signals:
            self._average(now.ids, now.signals["loss"].float())
        if "correct" in signals:
            self._count_forgettings(now.ids, now.signals["correct"])
        self._table["count"].index_add_(0, now.ids, now.times)
        self._table["last_step"].index_fill_(0, now.ids, step)

    @torch.no_grad()
    def read(self, name: str, ids: Int[Tensor, "k"]) -> Shaped[Tensor, "k"]:
        """The statistic ``name`` of the rows ``ids``; padding reads as a row never seen."""
        column, ids = self.__getattr__(name), self._place(ids)
        known = column.index_select(0, ids.clamp(max=self.rows - 1))
        return torch.where(ids < self.rows, known, torch.full_like(known, _STATISTICS[name][2]))

    def beta(self, ids: Int[Tensor, "k"], step: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """Successes and failures of the rows ``ids`` as they stand before the update of ``step``; 0 if never seen."""
        fade = self._fade(self.read("last_step", ids), step - 1)
        return self.read("successes", ids) * fade, self.read("failures", ids) * fade

    def clear(self, ids: Int[Tensor, "k"]) -> None:
        """Make the rows ``ids`` unseen again."""
        ids = self._place(ids)
        for name, column in self._table.items():
            column.index_fill_(0, ids, _STATISTICS[name][2])

    def to(self, device: torch.device | str) -> SampleHistory:
        """Move the statistics to another device."""
        self._table = {name: old.to(device, fitting(_STATISTICS[name][1], device)) for name, old in self._table.items()}
        self._looks = self.device.type == "cpu"
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the statistics of all rows."""
        return {name: column[: self.rows].clone() for name, column in self._table.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ConfigurationError: The state is of another number of rows, has other columns, or is damaged.
        """
        if set(state) != set(self._table):
            raise ConfigurationError(
                f"SampleHistory.columns must be those of the state: {', '.join(state)}, got {', '.join(self._table)}."
            )
        if (rows := state["count"].shape[0]) != self.rows:
            raise ConfigurationError(
                f"SampleHistory.rows must be the length of the dataset ({self.rows}), got a state of {rows} rows: "
                "the dataset has changed, or the state is of another one."
            )
        state = columns_of("SampleHistory", state, self._table, {name: low for name, (*_, low) in _STATISTICS.items()})
        for name, value in state.items():
            self._table[name][:rows].copy_(value)

    def _place(self, ids: Tensor) -> Tensor:
        return place(ids, rows=self.rows, device=self.device, look=self._looks)

    def _fade(self, last: Tensor, step: int) -> Tensor | float:
        """What is left of counts of step ``last`` after not having been tried up to and in ``step``."""
        if self.forget == 1:
            return 1.0
        return torch.pow(self.forget, (step - last).clamp_min(0).to(fitting(torch.float64, last.device)))

    def _fade_and_add(self, now: Visits, step: int, keep: Tensor | float) -> None:
        tried = "successes" in now.signals
        fade = self._fade(self._table["last_step"].index_select(0, now.ids), step - 1 if tried else step)
        for name in ("successes", "failures"):
            column = self._table[name]
            left = column.index_select(0, now.ids) * fade
            column.index_copy_(0, now.ids, left * keep + now.signals[name] if tried else left)

    def _average(self, ids: Tensor, loss: Tensor) -> None:
        ids = ids.masked_fill((loss - loss) != 0, self.rows)  # those not finite; torch has no one kernel that asks so
        last, ema = self._table["last_loss"], self._table["ema_loss"]
        last.index_copy_(0, ids, loss)
        old = ema.index_select(0, ids)
        ema.index_copy_(0, ids, torch.where(old.isnan(), loss, torch.lerp(loss, old, self.decay)))

    def _count_forgettings(self, ids: Tensor, correct: Tensor) -> None:
        ids = torch.where(correct.isfinite(), ids, self.rows)
        right, events, last = correct > 0.5, self._table["forgettings"], self._table["last_correct"]
        before = events.index_select(0, ids)
        forgotten = (last.index_select(0, ids) == 1) & ~right & (before < torch.iinfo(before.dtype).max)
        events.index_copy_(0, ids, before + forgotten)
        last.index_copy_(0, ids, right.to(last.dtype))
