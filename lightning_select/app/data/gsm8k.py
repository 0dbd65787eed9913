"""Word problems with a number for an answer, in the form of GSM8K, as prompts for training on rewards.

A row of the file is a question and a solution of several lines, the last of which is ``#### 72``.

References:
    Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021, arXiv:2110.14168;
    the files are at https://github.com/openai/grade-school-math (MIT licence).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_select.app.data.prompt_file import PromptRows, SamplerFactory, check_count, read_prompts, training_loader
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.rollouts.rewards.number_answer import read_number

__all__ = ["GSM8K", "Problem", "read_problems"]

_MARK = "####"
_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""What the solutions say to a calculator: ``48/2 = <<48/2=24>>24``."""


@dataclass(frozen=True)
class Problem:
    """A question and how it is solved.

    Attributes:
        question: The question.
        solution: The solution with its last line, without notes for a calculator.
        answer: The number on that line, as it is written there.
        steps: How many lines come before.
    """

    question: str
    solution: str
    answer: str
    steps: int


def read_problems(path: str, *, question_key: str = "question", answer_key: str = "answer") -> list[Problem]:
    """The problems of a file of JSON lines, or one JSON list, gzipped or not.

    Args:
        path: The file.
        question_key: Field that holds the question.
        answer_key: Field that holds the solution, which ends in ``#### 72``; or a number alone.

    Raises:
        ConfigurationError: There is no such file, or something in it is not as it must be; names the line.
    """
    found = []
    for where, question, solution in read_prompts(path, prompt_key=question_key, answer_key=answer_key):
        steps, _, answer = solution.rpartition(_MARK)
        if read_number(answer, r"^\s*(\S+)\s*$") is None:
            raise ConfigurationError(f"{answer_key} in {where} must end in '{_MARK} number', got {solution[-60:]!r}.")
        lines = [line for line in steps.splitlines() if line.strip()]
        found.append(Problem(question.strip(), _CALCULATOR.sub("", solution).strip(), answer.strip(), len(lines)))
    return found


class GSM8K(LightningDataModule):
    """Batches ``{"prompt", "answer", "category", "id"}``: two lists of texts, and two tensors of numbers.

    ``answer`` is the number alone; ``category`` is the number of lines of the solution, a rough measure of difficulty;
    ``id`` is the position among the rows of the part. The solutions themselves are only seen as ``examples``.

    Args:
        path: A file of questions with answers, or a folder that holds files ``train`` and maybe ``test`` (``.jsonl``,
            ``.json``, or either with ``.gz``).
        test_path: A file to test on, and to validate on where nothing is held out; ``None`` takes that of the folder.
        template: How a prompt is made; holds ``{question}``.
        examples: Training rows that are shown with their solutions before the question, and not trained on.
        held_out: Share of the training rows to validate on; ``None`` validates on the test file.
        batch_size: Prompts of a batch.
        question_key: Field of the file that holds the question.
        answer_key: Field that holds the solution.
        seed: Seed of the examples and of the split.
        num_workers: Worker processes of the training loader.
        sampler: Called with the training rows, makes the sampler of the training loader; ``None`` shuffles them. An
            argument of it that is the word ``category`` stands for the categories of the rows.

    Raises:
        ArgumentError: A value is out of range.
    """

    def __init__(
        self,
        path: str,
        test_path: str | None = None,
        template: str = "Question: {question}\nThink step by step, and end with #### and the number.\nAnswer:",
        examples: int = 0,
        held_out: float | None = None,
        batch_size: int = 32,
        question_key: str = "question",
        answer_key: str = "answer",
        seed: int = 0,
        num_workers: int = 0,
        sampler: SamplerFactory | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.test_path = test_path
        self.template = _checked_template(template)
        self.examples = check_count("GSM8K", "examples", examples, 0)
        if held_out is not None and not (isinstance(held_out, float) and 0 < held_out < 1):
            raise ArgumentError(f"GSM8K.held_out must be in (0, 1) or None, got {held_out!r}.")
        self.held_out = held_out
        self.batch_size = check_count("GSM8K", "batch_size", batch_size, 1)
        self.question_key, self.answer_key = question_key, answer_key
        self.seed = seed
        self.num_workers = num_workers
        self.sampler = sampler
        self._parts: dict[str, PromptRows] = {}

    def setup(self, stage: str) -> None:
        """Read the files, choose the examples and split.

        Raises:
            ConfigurationError: A file cannot be used, there is none to validate on, or too few rows are left to train.
        """
        if self._parts:
            return
        train_path, test_path = self._paths()
        if test_path is None and self.held_out is None:
            raise ConfigurationError(
                "data.held_out must be a share of the rows where there is no file to validate on, got null. "
                f"Set it, or data.test_path, or put a file test.jsonl into a folder with {Path(train_path).name}."
            )
        keys = {"question_key": self.question_key, "answer_key": self.answer_key}
        train = read_problems(train_path, **keys)
        test = [] if test_path is None else read_problems(test_path, **keys)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed)).tolist()
        shown = [train[row] for row in order[: self.examples]]
        count = 0 if self.held_out is None else max(1, round(self.held_out * len(train)))
        held_out = [train[row] for row in order[self.examples :][:count]]
        rest = [train[row] for row in sorted(order[self.examples + count :])]
        if not rest:
            raise ConfigurationError(
                f"data.path must hold rows to train on beside {self.examples} examples and {count} held-out rows, "
                f"got {len(train)}."
            )
        parts = {"train": rest, "val": held_out or test, "test": test or held_out}
        self._parts = {name: self._rows(problems, shown) for name, problems in parts.items()}

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, in random order or as the sampler draws them."""
        return training_loader(self._parts["train"], self.batch_size, self.num_workers, self.sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The held-out rows, or those of the test file."""
        return DataLoader(self._parts["val"], self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The rows of the test file; where there is none, the held-out rows."""
        return DataLoader(self._parts["test"], self.batch_size)

    def _paths(self) -> tuple[str, str | None]:
        """The file to train on, and that to test on."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            return self.path, self.test_path
        found = {name: _file_of(folder, name) for name in ("train", "test")}
        if found["train"] is None:
            raise ConfigurationError(
                f"data.path must be a file, or a folder that holds train.jsonl (or {', '.join(_ENDINGS[1:])}), "
                f"got {self.path!r}."
            )
        return found["train"], self.test_path or found["test"]

    def _rows(self, problems: Sequence[Problem], shown: Sequence[Problem]) -> PromptRows:
        before = "".join(f"{self.template.format(question=one.question)} {one.solution}\n\n" for one in shown)
        return PromptRows(
            (before + self.template.format(question=one.question), one.answer, one.steps) for one in problems
        )


def _file_of(folder: Path, name: str) -> str | None:
    return next(
        (str(folder / f"{name}{ending}") for ending in _ENDINGS if (folder / f"{name}{ending}").is_file()), None
    )


def _checked_template(template: Any) -> str:
    told = f"GSM8K.template must be a text that holds {{question}} (a brace of the text is doubled), got {template!r}."
    try:
        found = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except (TypeError, ValueError) as error:
        raise ArgumentError(told) from error
    if found != {"question"}:
        raise ArgumentError(told)
    return str(template)
