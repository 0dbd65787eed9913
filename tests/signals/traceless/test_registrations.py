"""Hooks, and which weights are trained, are as before a pass, on whatever module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_select.signals.traceless.registrations import registrations_kept


def nothing(*args, **kwargs):
    return None


def register_everything(module: nn.Module) -> None:
    module.register_forward_pre_hook(nothing)
    module.register_forward_pre_hook(nothing, with_kwargs=True)
    module.register_forward_hook(nothing)
    module.register_forward_hook(nothing, with_kwargs=True, always_call=True)
    module.register_full_backward_pre_hook(nothing)
    module.register_full_backward_hook(nothing)
    for weight in module.parameters():
        weight.register_hook(nothing)
        weight.register_post_accumulate_grad_hook(nothing)


def registered(module: nn.Module) -> list[int]:
    tables = [table for name, table in sorted(vars(module).items()) if name.endswith(("_hooks", "_kwargs", "_called"))]
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    of_weights = [getattr(weight, name) for weight in module.parameters() for name in names]
    return [len(table or ()) for table in (*tables, *of_weights)]


@pytest.mark.parametrize("before", [0, 2])
def test_hooks_are_as_they_were(before: int) -> None:
    module = nn.Linear(2, 1)
    for _ in range(before):
        register_everything(module)
    counts = registered(module)
    with registrations_kept([module]):
        register_everything(module)
        assert registered(module) != counts
    assert registered(module) == counts


def test_hooks_that_were_removed_are_back() -> None:
    module = nn.Linear(2, 1)
    handles = [module.register_forward_hook(nothing), module.weight.register_hook(nothing)]
    counts = registered(module)
    with registrations_kept([module]):
        for handle in handles:
            handle.remove()
    assert registered(module) == counts


def test_a_module_without_all_tables() -> None:
    module = nn.Linear(2, 1)
    del vars(module)["_backward_pre_hooks"]
    with registrations_kept([module, nn.ReLU()]):
        module.register_forward_hook(nothing)
        module.weight.register_hook(nothing)
    assert not module._forward_hooks
    assert not module.weight._backward_hooks


def test_flags_of_weights_and_the_default_dtype() -> None:
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    with registrations_kept([module]):
        module.weight.requires_grad_(False)
        module.bias.requires_grad_(True)
        torch.set_default_dtype(torch.float64)
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
    assert torch.get_default_dtype() == torch.float32
