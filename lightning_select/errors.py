"""Every exception that lightning-select raises on purpose.

::

    SelectionError
    ├── ArgumentError (also a ValueError)          a constructor or config value breaks its rule
    ├── BatchFormatError                           rows of a batch cannot be counted or taken
    ├── MissingSignalError                         a score needs something that the step does not show
    ├── TrainingStepContractError                  the training step cannot be read row by row
    ├── ScoreError                                 a score returned something else than one float per row
    ├── NonFiniteScoreError                        too few rows have a finite score or loss
    ├── SelectorError                              a selector broke its promise (count, range, duplicates)
    ├── WeightError                                weights are negative, not finite, all zero or need a gradient
    ├── ReferenceModelError                        the reference of a reducible loss is missing or does not fit
    ├── RewardError                                a reward function failed, or gave no number for a completion
    ├── ShortfallError                             too few groups of attempts passed the filter
    ├── ScoringMemoryError (also a RuntimeError)   a scoring pass does not fit into memory, with one row neither
    ├── RowIdError                                 row ids are missing, unknown or out of range
    └── ConfigurationError                         callbacks, Trainer flags or overrides that contradict each other
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BatchFormatError",
    "ConfigurationError",
    "MissingSignalError",
    "NonFiniteScoreError",
    "ReferenceModelError",
    "RewardError",
    "RowIdError",
    "ScoreError",
    "ScoringMemoryError",
    "SelectionError",
    "SelectorError",
    "ShortfallError",
    "TrainingStepContractError",
    "WeightError",
]


class SelectionError(Exception):
    """Base of everything that lightning-select raises on purpose."""


class ArgumentError(SelectionError, ValueError):
    """A value breaks the rule of its owner, for example ``TopK.fraction must be in (0, 1], got 1.5.``."""


class BatchFormatError(SelectionError):
    """The rows of a batch cannot be counted, or one of its parts cannot be cut to chosen rows."""


class MissingSignalError(SelectionError):
    """A score asks for a signal (logits, hidden state, rewards, ...) that the training step does not show."""


class TrainingStepContractError(SelectionError):
    """The training step cannot be read row by row; the message shows both ways out as code."""


class ScoreError(SelectionError):
    """A score returned something else than one floating point number per row."""


class NonFiniteScoreError(SelectionError):
    """Fewer rows than asked for have a finite score, or no row has a finite loss."""


class SelectorError(SelectionError):
    """A selector returned a wrong number of rows, an index out of range, or one row twice."""


class WeightError(SelectionError):
    """Weights are of a wrong shape, negative, not finite, all zero, or need a gradient."""


class ReferenceModelError(SelectionError):
    """The reference of a reducible loss is missing, untrained, or belongs to another model or dataset."""


class RewardError(SelectionError):
    """A reward function failed for every completion, or returned something else than one number for each."""


class ShortfallError(SelectionError):
    """Too few groups of attempts passed the filter, and the policy for that is to stop."""


class ScoringMemoryError(SelectionError, RuntimeError):
    """A scoring pass does not fit into memory, in the smallest pieces neither."""


class RowIdError(SelectionError):
    """Row ids are needed and cannot be found, or an id is outside the dataset or its table."""


class ConfigurationError(SelectionError):
    """Callbacks, Trainer flags or overrides that contradict each other."""
