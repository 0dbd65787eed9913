"""Each private name of torch that we touch; a failure here says that it moved, and what depends on it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lightning_select
from lightning_select import torch_compat

PACKAGE = Path(lightning_select.__file__).parent


def test_functorch_is_noticed() -> None:
    """``torch._C._functorch.peek_interpreter_stack``: without it, sums inside vmap would be taken for reductions."""
    seen: list[bool] = []

    def inside(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch_compat.in_functorch())
        return x.sum()

    torch.func.vmap(inside)(torch.ones(2, 3))
    assert seen == [True]
    assert not torch_compat.in_functorch()


def test_what_functorch_wraps_is_found() -> None:
    """``torch._C._functorch``, ``_DisableFuncTorch``: what is changed inside vmap or grad would stay changed."""
    held, seen = torch.zeros(2, 3), []

    def inside(x: torch.Tensor) -> torch.Tensor:
        with torch_compat.beneath_functorch():
            plain = torch_compat.unwrapped(x)
            seen.append((torch_compat.storage_id(plain), tuple(plain.shape), plain.clone()))
        x.add_(1)
        return x.sum()

    torch.func.vmap(torch.func.vmap(inside))(held)
    torch.func.grad(lambda y, x: y * inside(x))(torch.ones(()), held)
    assert [(storage, shape) for storage, shape, _ in seen] == [(torch_compat.storage_id(held), (2, 3))] * 2
    assert [value.tolist() for *_, value in seen] == [[[float(n)] * 3] * 2 for n in range(2)]
    assert torch_compat.unwrapped(held) is held


def test_the_graph_knows_the_sizes_of_its_outputs() -> None:
    """``Node._input_metadata``: without it, any part of a loss that is no reduction counts as unseen."""
    x = torch.ones(3, 2, requires_grad=True)
    total = (x * 2).sum()
    assert torch_compat.output_size(total.grad_fn) == 1
    assert torch_compat.output_size(total.grad_fn.next_functions[0][0]) == 6
    assert torch_compat.output_size(None) == 0


def test_packing_passes_through_one_function() -> None:
    """``torch._VF._pack_padded_sequence``: without it, the rows of packed terms would not be found."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func == torch_compat.PACK_PADDED:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    with Watch():
        packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(2, 3, 1), torch.tensor([3, 1]), batch_first=True)
    assert packed.data.shape == (4, 1)
    assert len(seen) == 1
    padded, lengths, batch_first = seen[0]
    assert (padded.shape, lengths.tolist(), batch_first) == ((2, 3, 1), [3, 1], True)


def test_torch_hides_a_weight_from_modes_and_its_call_tells_it() -> None:
    """``F.l1_loss`` leaves ``weight`` out of ``handle_torch_function``: watched steps would train on another loss.

    When every torch that we support shows it here, `with_weight_of_l1` and what makes use of it can go.
    """
    shown = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is not F.l1_loss:
                return func(*args, **(kwargs or {}))
            shown.append("weight" in kwargs)
            return func(*args, **torch_compat.with_weight_of_l1(kwargs))

    x, y, weight = torch.tensor([1.0, 5.0]), torch.zeros(2), torch.tensor([3.0, 1.0])
    with Watch(), Watch():
        values = [F.l1_loss(x, y, weight=weight), F.l1_loss(x, y, None, None, "sum", weight), F.l1_loss(x, y)]
    assert [float(value) for value in values] == [2.0, 8.0, 3.0]
    assert not any(shown)


def test_gamma_draws_by_a_generator() -> None:
    """``torch._standard_gamma``: the posterior samplers draw from it; `torch.distributions.Gamma` calls it too."""
    concentration = torch.tensor([0.5, 4.0], dtype=torch.float64).repeat(20_000, 1)
    drawn = torch_compat.STANDARD_GAMMA(concentration, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.mean(dim=0), concentration[0], rtol=0.05)
    assert torch.equal(drawn, torch_compat.STANDARD_GAMMA(concentration, generator=torch.Generator().manual_seed(0)))


def test_a_module_keeps_its_parts_where_we_think() -> None:
    """``_parameters``, ``_buffers``, ``_modules``: what a scoring pass changes would not be put back."""
    module = nn.Sequential(nn.BatchNorm1d(2))
    assert set(torch_compat.MODULE_TABLES) < set(vars(module))
    assert list(vars(module)[torch_compat.MODULE_CHILDREN]) == ["0"]
    assert list(vars(module[0])[torch_compat.MODULE_PARAMETERS]) == ["weight", "bias"]


def test_a_module_keeps_its_hooks_where_we_think() -> None:
    """``_forward_hooks`` and the like: a hook that a step adds while it is scored would stay."""
    module = nn.Linear(1, 1)
    module.register_forward_pre_hook(print, with_kwargs=True)
    module.register_forward_hook(print, with_kwargs=True, always_call=True)
    module.register_full_backward_pre_hook(print)
    module.register_full_backward_hook(print)
    assert [name for name in torch_compat.MODULE_HOOKS if not vars(module)[name]] == []


def test_a_weight_keeps_its_hooks_where_we_think() -> None:
    """``_backward_hooks``, ``_post_accumulate_grad_hooks``: as above, for hooks on weights."""
    weight = nn.Parameter(torch.ones(1))
    assert torch_compat.hooks_of([weight]) == [None, None]
    weight.register_hook(print)
    weight.register_post_accumulate_grad_hook(print)
    assert [len(table or ()) for table in torch_compat.hooks_of([weight])] == [1, 1]


def test_a_mode_is_shown_who_turns_gradients_off() -> None:
    """``_set_grad_enabled``: what a step computes under its own ``no_grad`` would get a graph while it is scored."""
    seen: list[tuple[bool, Any, Any]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch_compat.SET_GRAD_ENABLED:
                caller = torch_compat.asking_frame()
                seen.append((args[0], caller.f_code, caller.f_back and caller.f_back.f_code))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        with torch.no_grad():
            pass
        with torch.enable_grad():
            pass
    begin, end, on, back = seen
    assert begin[1] is end[1] is torch_compat.SET_GRAD_INIT
    assert torch_compat.NO_GRAD_CODE[begin[2]] is torch_compat.NO_GRAD_CODE[on[1]] is True
    assert torch_compat.NO_GRAD_CODE[end[2]] is torch_compat.NO_GRAD_CODE[back[1]] is False
    assert [mode for mode, *_ in seen] == [False, False, True, False]


def test_a_write_shows_in_the_version() -> None:
    """``Tensor._version``: products of a head's weights would be used after the weights changed."""
    tensor = torch.zeros(2)
    before = torch_compat.version_of(tensor)
    tensor[:1].add_(1)
    assert torch_compat.version_of(tensor) == before + 1


def test_a_view_knows_what_it_is_of() -> None:
    """``Tensor._base``: the head of a step would not be recognised behind a transposed weight."""
    weight = nn.Parameter(torch.zeros(2, 3))
    assert torch_compat.base_of(weight.t()) is weight
    assert torch_compat.base_of(weight) is None


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_module_tells_what_it_holds() -> None:
    """``_concrete_type``: what a scripted module counts and averages would not be put back."""
    module = torch.jit.script(nn.BatchNorm1d(2))
    assert torch_compat.scripted_values(module)["training"] is True
    assert torch_compat.scripted_values(module)["running_mean"] is module.running_mean
    assert torch_compat.scripted_values(torch.jit.freeze(module.eval())) == {}


def test_views_share_a_storage() -> None:
    """``UntypedStorage._cdata``: a write through a view would not be put back."""
    tensor = torch.zeros(2, 3)
    assert torch_compat.storage_id(tensor) == torch_compat.storage_id(tensor[1:])
    assert torch_compat.storage_id(tensor) != torch_compat.storage_id(tensor.clone())


def test_a_compiled_part_is_known() -> None:
    """``_compiled_call_impl``, ``OptimizedModule``: a compiled step would hide its loss without a word."""
    module = nn.Linear(1, 1)
    assert not torch_compat.is_compiled_part(module)
    assert torch_compat.is_compiled_part(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert torch_compat.is_compiled_part(module)


def test_an_error_of_the_compiler_is_known() -> None:
    """``torch._dynamo.exc.TorchDynamoException``: a step compiled in one piece would not run uncompiled instead."""

    def whole(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x

    with pytest.raises(Exception, match=r"graph.break") as caught:
        torch.compile(whole, backend="eager", fullgraph=True)(torch.ones(1))
    assert torch_compat.is_compiler_error(caught.value)
    assert not torch_compat.is_compiler_error(RuntimeError("mine"))


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_inner_schedulers_are_found(kind: str) -> None:
    """``_schedulers``: a step that turns their knobs while it is scored would turn them twice."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    inner = [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
    arguments = {"milestones": [2]} if kind == "SequentialLR" else {}
    scheduler = getattr(torch.optim.lr_scheduler, kind)(*([optimizer] if arguments else []), inner, **arguments)
    assert torch_compat.inner_schedulers(scheduler) == inner
    assert torch_compat.inner_schedulers(inner[0]) == []


def test_operations_tell_what_they_write_to() -> None:
    """``OpOverload._schema``, ``_overloadname``: without them, writes and operations in place would pass unseen."""
    operation = torch.ops.aten.add_.Tensor
    assert torch_compat.schema_of(operation).is_mutable
    assert torch_compat.schema_of(operation).arguments[0].alias_info.is_write
    assert not torch_compat.schema_of(torch.ops.aten.add.Tensor).is_mutable
    assert torch_compat.overload_name(operation) == "Tensor"


def test_a_wrapper_has_a_shape_and_sees_its_operations() -> None:
    """``_make_wrapper_subclass``, ``_disabled_torch_function_impl``: logits that are not there rest on these."""
    seen = []

    class Absent(Tensor):
        __torch_function__ = torch_compat.NO_TORCH_FUNCTION

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return torch.zeros(args[0].shape)

    absent = torch_compat.wrapper_subclass(Absent, (4, 5), torch.float16, torch.device("cpu"))
    assert (type(absent), absent.shape, absent.dtype) == (Absent, (4, 5), torch.float16)
    assert (absent * 2).shape == (4, 5)
    assert seen == [torch.ops.aten.mul.Tensor]


def private_names(source: str) -> set[str]:
    """Attributes with a leading underscore that a file reads from others and does not define itself.

    Fields of named tuples (documented with their underscore), torch's operations and `self` are no one else's.
    """
    tree = ast.parse(source)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")}
    mine = [node for node in attributes if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")]
    own |= {node.attr for node in mine} | {"_fields"}
    theirs = {
        node.attr
        for node in attributes
        if node not in mine and not (isinstance(node.value, ast.Name) and node.value.id == "aten")
    }
    known = {name for kind in (nn.Module, pl.LightningModule, pl.Trainer, Tensor) for name in dir(kind)}
    known |= set(vars(pl.LightningModule())) | {"_compiler_ctx", "_compiled_call_impl", "_schedulers"}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    parts = {part for module in modules for part in module.split(".")}
    return {
        name for name in (theirs - own) | (texts & known) | parts if name.startswith("_") and not name.startswith("__")
    }


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_live_in_two_files(path: Path) -> None:
    if path.name not in {"compat.py", "torch_compat.py"}:
        assert private_names(path.read_text()) <= {"_attached_by_itself"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("trainer._results", "_results"),
        ("getattr(module, '_trainer')", "_trainer"),
        ("from torch.utils._pytree import tree_map", "_pytree"),
        ("x.weight._version", "_version"),
    ],
)
def test_the_search_finds_them(source: str, name: str) -> None:
    assert private_names(source) == {name}
