"""What users are told to import and to override: every name, its arguments and defaults, and every config.

``python -m tests.public_api`` writes it down, in ``tests/public_api.json`` for ``tests/test_public_api.py`` and in
``docs/api.md`` for readers. What is not listed here is ours to change.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from omegaconf import OmegaConf

from lightning_select.app.config_path import shared_folder
from lightning_select.samplers.base import OnlineSampler
from tests.methods import camel, class_of, modules_of

SNAPSHOT = Path(__file__).with_name("public_api.json")

Surface = dict[str, Any]


def _methods(kind: str) -> dict[str, list[str]]:
    """Of each method the function and the class that its file is named for."""
    found = {}
    for name in modules_of(kind):
        said = importlib.import_module(f"lightning_select.{kind}s.{name}").__all__
        if kind != "sampler" or issubclass(class_of(kind, name), OnlineSampler):
            found[f"lightning_select.{kind}s.{name}"] = [one for one in (camel(name), name) if one in said]
    return found


def areas() -> dict[str, dict[str, list[str]]]:
    """Heading, then module, then names."""
    root, errors = (importlib.import_module(name) for name in ("lightning_select", "lightning_select.errors"))
    callbacks = ("BatchSelection", "LossReweighting", "SamplerFeedback", "SelectionReport")
    files = ("batch_selection", "loss_reweighting", "sampler_feedback", "selection_report")
    places = {f"lightning_select.callbacks.{file}": [name] for file, name in zip(files, callbacks, strict=True)}
    return {
        "The package": {"lightning_select": sorted(root.__all__)},
        "The same names where they live": {
            **places,
            "lightning_select.device_loader": ["DeviceLoader"],
            "lightning_select.schedule": ["Anneal", "Schedule"],
            "lightning_select.signals.base": ["Signals"],
            "lightning_select.signals.holdout": ["Holdout"],
            "lightning_select.types": ["Selection"],
        },
        "For methods of your own": {
            "lightning_select.protocols": ["Score", "SelectionContext", "Selector", "Weighting"],
            "lightning_select.signals.head.head": ["Head"],
            "lightning_select.batch": ["count_rows", "take_rows"],
            "lightning_select.testing": ["check_score", "check_selector", "check_weighting", "made_signals"],
            "lightning_select.history": ["SampleHistory"],
            "lightning_select.keyed_history": ["KeyedHistory"],
        },
        "Scores": _methods("score"),
        "Selectors": _methods("selector"),
        "Weightings": _methods("weighting"),
        "Samplers": {
            "lightning_select.samplers.base": ["OnlineSampler"],
            "lightning_select.samplers.draw": ["WeightedDraw"],
            "lightning_select.samplers.drawn": ["Drawn"],
            **_methods("sampler"),
        },
        "Reports": {"lightning_select.reports.likely_mislabelled": ["likely_mislabelled"]},
        "Training on rewards": ROLLOUTS,
        "Preference pairs": PREFERENCES,
        "The application": APPLICATION,
        "Errors": {"lightning_select.errors": list(errors.__all__)},
    }


ROLLOUTS = {
    "lightning_select.rollouts.grpo": ["GRPO"],
    "lightning_select.rollouts.policy": ["Attempts", "Policy"],
    "lightning_select.rollouts.hf_policy": ["HFPolicy"],
    "lightning_select.rollouts.tiny_policy": ["TinyPolicy"],
    "lightning_select.rollouts.advantage_range": ["AdvantageRange", "advantage_range"],
    "lightning_select.rollouts.balanced": ["Balanced", "balanced"],
    "lightning_select.rollouts.top1": ["Top1", "top1"],
    "lightning_select.rollouts.zero_variance": ["ZeroVariance", "zero_variance"],
    "lightning_select.rollouts.refill": ["Refill"],
    "lightning_select.rollouts.screening": ["Screening"],
    "lightning_select.rollouts.losses.dapo": ["DAPOLoss", "dapo"],
    "lightning_select.rollouts.losses.dr_grpo": ["DrGRPOLoss", "dr_grpo"],
    "lightning_select.rollouts.losses.grpo": ["GRPOLoss", "grpo"],
    "lightning_select.rollouts.rewards.exact_answer": ["ExactAnswer", "exact_answer"],
    "lightning_select.rollouts.rewards.number_answer": ["NumberAnswer", "number_answer"],
    "lightning_select.rollouts.pass_at_k": ["pass_at_k"],
}

PREFERENCES = {
    "lightning_select.preferences.peer_review": ["PeerReview"],
    "lightning_select.preferences.peer_select": ["PeerSelect", "peer_select"],
    "lightning_select.preferences.pair_loss": ["PairLoss", "pair_loss"],
    "lightning_select.preferences.pair_draws": ["PairDraws"],
    "lightning_select.preferences.easy_first": ["EasyFirst", "easy_first"],
    "lightning_select.preferences.pairs": ["read_pairs"],
    "lightning_select.preferences.made_up_pairs": ["made_up_pairs"],
    "lightning_select.preferences.reward_classifier": ["reward_classifier"],
    "lightning_select.preferences.reward_encoder": ["RewardEncoder"],
    "lightning_select.preferences.reward_mlp": ["RewardMLP"],
}

APPLICATION = {
    "lightning_select.app": ["main"],
    "lightning_select.app.data.arithmetic": ["Arithmetic"],
    "lightning_select.app.models.causal_lm": ["CausalLM"],
    "lightning_select.app.models.classifier": ["Classifier"],
    "lightning_select.app.data.digits": ["Digits"],
    "lightning_select.app.data.gsm8k": ["GSM8K"],
    "lightning_select.app.data.instructions": ["Instructions"],
    "lightning_select.app.data.pair_data": ["PairData"],
    "lightning_select.app.models.warm_start": ["started_on_sums"],
}


def told(value: Any) -> str:
    """A default as it is written; nothing in it may depend on the process."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return f"<{type(value).__qualname__}>" if " at 0x" in text else text


def parameters_of(function: Any) -> list[list[str | None]]:
    """Name, kind and default (``None``: there is none) of every argument."""
    factories: dict[str, Any] = {}
    if dataclasses.is_dataclass(function):
        given = [field for field in dataclasses.fields(function) if field.default_factory is not dataclasses.MISSING]
        factories = {field.name: field.default_factory for field in given}  # type: ignore[misc]
    found: list[list[str | None]] = []
    for name, one in inspect.signature(function).parameters.items():
        default = factories[name]() if name in factories else one.default
        found.append([name, one.kind.description, None if default is inspect.Parameter.empty else told(default)])
    return found


def members_of(owner: type) -> dict[str, Any]:
    """Public methods, properties and class attributes of its own; those of a base of ours stand with the base.

    What a framework calls by its own names is left out, and so are the methods of callbacks, which is how they hear of
    each other.
    """
    foreign = {name for base in owner.__mro__ if not _is_ours(base) for name in vars(base)}
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        private = name.startswith("_") and name != "__call__"
        if private or name in fields | foreign or issubclass(owner, Callback):
            continue
        plain = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        found[name] = parameters_of(plain) if inspect.isroutine(plain) else "attribute"
    return dict(sorted(found.items()))


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "lightning_select"


def describe(thing: Any) -> dict[str, Any]:
    """What a caller depends on."""
    if inspect.isclass(thing):
        bases = [base.__name__ for base in thing.__mro__[1:] if _is_ours(base) or issubclass(base, Exception)]
        made = [] if issubclass(thing, Exception) or getattr(thing, "_is_protocol", False) else parameters_of(thing)
        return {"kind": "class", "bases": bases, "parameters": made, "members": members_of(thing)}
    if callable(thing):
        return {"kind": "function", "parameters": parameters_of(thing)}
    return {"kind": "value"}


def configs() -> dict[str, dict[str, Any]]:
    """Every config by its group and name, with what it holds."""
    folder, found = shared_folder(), {}
    for file in sorted(folder.rglob("*.yaml")):
        held = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        found[file.relative_to(folder).with_suffix("").as_posix()] = dict(_flat(held or {}))
    return found


def _flat(held: dict[Any, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in held.items():
        inner = isinstance(value, dict) and value
        found += _flat(value, f"{above}{key}.") if inner else [(f"{above}{key}", value)]
    return found


def surface() -> Surface:
    """All of it. A name that is at two places is described at the first."""
    names: dict[str, Any] = {}
    first: dict[int, str] = {}
    for listed in areas().values():
        for path in (f"{module}.{name}" for module, found in listed.items() for name in found):
            thing = getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2])
            same = first.setdefault(id(thing), path)
            names[path] = describe(thing) if same == path else {"kind": "same", "as": same}
    entries = importlib.metadata.distribution("lightning-select").entry_points
    points = sorted(f"{one.group}: {one.name} = {one.value}" for one in entries)
    return {"names": names, "entry_points": {point: {} for point in points}, "configs": configs()}


def written(held: Surface) -> str:
    """A line for every name and config, so that a change shows as a line."""
    parts = []
    for part, entries in held.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        parts.append(f" {json.dumps(part)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    from tests.api_page import PAGE, page

    now = surface()
    SNAPSHOT.write_text(written(now), encoding="utf-8")
    PAGE.write_text(page(now), encoding="utf-8")
