from __future__ import annotations

import collections
import copy
import pickle
import timeit
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_select.errors import ConfigurationError, TrainingStepContractError
from lightning_select.signals.scoring import StepRunner
from lightning_select.signals.traceless.snapshot import ModuleKeeper
from tests.modules import CLASSES, Classifier, features


class Meter:
    total = 0

    def __init__(self) -> None:
        self.values: list[float] = []
        self.sum = torch.zeros(2)

    def update(self, value: float) -> None:
        self.total += value
        self.values.append(value)


class Late(nn.Module):
    """Changes its attributes only when told to."""

    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.size, self.last = 3, None
        self.register_buffer("seen", torch.zeros(2))


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
        self.late = nn.Sequential(Late())
        self.history: dict[str, list[Any]] = {"train": []}
        self.by: Any = collections.defaultdict(list)
        self.meter = Meter()
        self.teacher = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))]  # a list hides it from the optimizer


def watched(module: nn.Module, passes: int = 1) -> ModuleKeeper:
    """A keeper whose first passes are over."""
    keeper = ModuleKeeper(module)
    for _ in range(passes):
        with keeper.kept():
            pass
    return keeper


MUL = torch.Tensor.mul_
PASSES = pytest.mark.parametrize("passes", [0, 1, 3])


@PASSES
def test_a_submodule_that_changes_late_is_put_back(passes: int) -> None:
    module = Host()
    keeper, late = watched(module, passes), module.late[0]
    before, tables = dict(vars(late)), {name: dict(vars(late)[name]) for name in ("_parameters", "_buffers")}
    for _ in range(3):
        with keeper.kept():
            late.count += 1
            late.last = torch.ones(3)
            late.cache = []
            del late.size
        assert vars(late) == before
        assert {name: vars(late)[name] for name in tables} == tables
        assert late.count == 0


@PASSES
def test_nested_containers_and_objects_are_put_back(passes: int) -> None:
    module = Host()
    keeper = watched(module, passes)
    objects = module.history, module.history["train"], module.by, module.meter, module.meter.values
    with keeper.kept():
        module.history["train"].append(1)
        module.by["a"].append(1)
        module.meter.update(3.0)
        module.history = {}
    assert module.history == {"train": []}
    assert module.by == {}
    assert (module.meter.total, module.meter.values) == (0, [])
    now = module.history, module.history["train"], module.by, module.meter, module.meter.values
    assert all(a is b for a, b in zip(now, objects, strict=True))


@PASSES
def test_what_training_changed_between_two_passes_stays(passes: int) -> None:
    module = Host()
    keeper, late = watched(module, passes), module.late[0]
    for n in range(1, 4):
        late.count = n
        late.cache = [n]
        module.net[0].note = n
        module.history["train"].append(n)
        module.net.add_module(f"more{n}", nn.Linear(2, 2))
        module.net[0].weight = nn.Parameter(torch.full((2, 2), float(n)))
        late.seen = torch.full((3,), float(n))
        module.eval() if n % 2 else module.train()
        names = list(module.state_dict())
        with keeper.kept():
            late.count = 9
            late.cache.append(9)
            module.net[0].note = 9
            module.history["train"].clear()
            module.add_module("extra", nn.Linear(2, 2))
            module.net.more1 = nn.Linear(2, 2)
            module.net[0].weight = nn.Parameter(torch.zeros(2, 2))
            late.seen = torch.zeros(7)
            module.train(not module.training)
        assert (late.count, late.cache, module.net[0].note) == (n, [n], n)
        assert module.history["train"] == list(range(1, n + 1))
        assert list(module.state_dict()) == names
        assert module.net[0].weight.tolist() == [[n, n], [n, n]]
        assert late.seen.tolist() == [n, n, n]
        assert all(child.training == (n % 2 == 0) for child in module.modules())


def test_a_number_that_only_training_changes_is_no_trace() -> None:
    module = Host()
    keeper = watched(module)
    for n in range(4):
        module.late[0].count = n
        with keeper.kept():
            module.late[0].count += 10
        assert module.late[0].count == n
    assert module.late[0] in keeper._tree._moving, "so that the others need no new copies"


@pytest.mark.parametrize(
    ("change", "look"),
    [
        (lambda late: setattr(late, "count", 5), lambda late: late.count == 5),
        (lambda late: setattr(late, "last", []), lambda late: late.last == []),
        (lambda late: setattr(late, "head", nn.Linear(1, 1)), lambda late: "head" in late._modules),
        (lambda late: setattr(late, "seen", torch.ones(2)), lambda late: late.seen.tolist() == [1, 1]),
        (lambda late: late.register_buffer("more", None), lambda late: "more" in late._buffers),
        (lambda late: late._buffers.update(late=late._buffers.pop("seen")), lambda late: "seen" not in late._buffers),
        (lambda late: late.eval(), lambda late: not late.training),
    ],
    ids=["number", "list", "module", "buffer", "none", "rename", "eval"],
)
class TestOneChange:
    """Just one thing changes: it stays where training did it, and goes where a pass did it."""

    def test_between_two_passes(self, change: Any, look: Any) -> None:
        module = Host()
        keeper = watched(module)
        change(module.late[0])
        for _ in range(2):
            with keeper.kept():
                pass
            assert look(module.late[0])

    @PASSES
    def test_inside_a_pass(self, change: Any, look: Any, passes: int) -> None:
        module = Host()
        keeper = watched(module, passes)
        for _ in range(2):
            with keeper.kept():
                change(module.late[0])
                assert look(module.late[0])
            if look(module.late[0]):
                pytest.fail("this is a trace")


def test_a_module_without_a_flag_of_its_own() -> None:
    module = nn.Sequential(nn.Identity())
    del vars(module[0])["training"]
    keeper = watched(module)
    with keeper.kept():
        module.eval()
    assert "training" not in vars(module[0])
    assert module.training


@PASSES
def test_children_parameters_and_buffers_come_and_go(passes: int) -> None:
    module = Host()
    keeper, first, weight = watched(module, passes), module.net[0], module.net[0].weight
    with keeper.kept():
        module.head = nn.Linear(2, 2)
        module.net[0] = nn.Linear(5, 5)
        del module.late
        first.register_parameter("scale", nn.Parameter(torch.ones(2)))
        first.register_buffer("mean", torch.ones(2))
        first.weight = None
    assert [name for name, _ in module.named_children()] == ["net", "late"]
    assert module.net[0] is first
    assert first.weight is weight
    assert [*first._parameters, *first._buffers] == ["weight", "bias"]


@PASSES
def test_a_buffer_that_is_replaced_is_put_back(passes: int) -> None:
    module = Host()
    keeper, late = watched(module, passes), module.late[0]
    seen = late.seen
    for size in (2, 5):
        with keeper.kept():
            late.seen = torch.ones(size)
        assert late.seen is seen


@PASSES
def test_a_rename_is_a_change(passes: int) -> None:
    module = Host()
    keeper, late = watched(module, passes), module.late[0]
    with keeper.kept():
        del late.last
        late.latest = None
    assert "latest" not in vars(late)
    assert late.last is None


def test_a_wrapper_without_a_training_flag_gets_none() -> None:
    net = torch.compile(nn.Sequential(nn.Linear(6, 3)), backend="eager")
    module = nn.Sequential(net)
    before = set(vars(net))
    assert "training" not in before
    keeper = watched(module)
    with keeper.kept():
        module.eval()
    assert net._orig_mod.training
    assert net._orig_mod[0].training
    assert set(vars(net)) == before


def test_scoring_adds_no_flag_to_a_wrapper() -> None:
    class Compiled(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

        def training_step(self, batch, batch_idx):
            modes.add((self.net.training, self.net._orig_mod.training))
            return super().training_step(batch, batch_idx)

    modes: set[Any] = set()
    module = Compiled()
    before = set(vars(module.net))
    StepRunner(module, None, module.training_step).measure(features(), {"loss"})
    assert modes == {(False, False)}
    assert set(vars(module.net)) == before
    module.net._orig_mod.eval()
    assert not module.net.training


@PASSES
def test_a_hidden_module_is_put_back(passes: int) -> None:
    module = Host()
    keeper, teacher = watched(module, passes), module.teacher[0]
    before = copy.deepcopy(teacher.state_dict())
    with keeper.kept():
        for parameter in teacher.parameters():
            keeper.before_write(MUL, parameter.data)
            parameter.data.mul_(0.5)
        teacher.count = 1
        teacher.eval()
        teacher[0].bias = nn.Parameter(torch.ones(5))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not hasattr(teacher, "count")
    assert all(child.training for child in teacher.modules())


def test_statistics_that_a_kernel_writes_in_a_hidden_module() -> None:
    module = Host()
    teacher = module.teacher[0]
    before, keeper = copy.deepcopy(teacher.state_dict()), ModuleKeeper(module)
    for _ in range(3):
        with keeper.kept():
            teacher(torch.randn(8, 2))
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_another_hidden_module_takes_the_place_of_the_first() -> None:
    module = Host()
    keeper = watched(module)
    inner = nn.Linear(2, 2)
    module.teacher[0] = nn.Identity()
    module.teacher[0].more = {"deep": inner}
    with keeper.kept():
        inner.note = 1
    assert not hasattr(inner, "note")
    assert keeper._tree._hidden.keys() == {id(module.teacher[0]), id(inner)}, "what is gone is not held on to"
    module.teacher.clear()
    with keeper.kept():
        pass
    assert keeper._tree._hidden == {}


def test_a_hidden_module_may_know_the_one_that_hides_it() -> None:
    class Probe(nn.Module):
        pass

    module, probe = Host(), Probe()
    module.probes = (probe,)
    probe.owner = [module, [nn.Linear(1, 1)]]
    keeper = watched(module, 2)
    with keeper.kept():
        probe.owner[1][0].note = 1
    assert not hasattr(probe.owner[1][0], "note")


def test_tensors_in_containers_and_objects_are_put_back_where_they_are_written() -> None:
    class Banked(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.bank = {"rows": [torch.zeros(8), torch.zeros(2)]}
            self.meter = Meter()
            self.rows = np.zeros(8)

        def training_step(self, batch, batch_idx):
            self.bank["rows"][0][batch[1]] += 1
            self.meter.sum.add_(1)
            self.meter.update(1.0)
            self.rows[0] += 1
            return super().training_step(batch, batch_idx)

    module = Banked()
    runner = StepRunner(module, None, module.training_step)
    for _ in range(4):
        runner.measure(features(), {"loss"})
    assert module.bank["rows"][0].tolist() == [0] * 8
    assert module.meter.sum.tolist() == [0, 0]
    assert (module.meter.total, module.meter.values) == (0, [])
    assert module.rows.sum() == 0


@PASSES
def test_views_of_one_storage_are_all_put_back(passes: int) -> None:
    module, flat = nn.Module(), torch.arange(6.0)
    module.first, module.second = nn.Parameter(flat[:2]), nn.Parameter(flat[2:])
    module.parts = [flat[1:2]]
    keeper = watched(module, passes)
    with keeper.kept(), torch.no_grad():
        keeper.before_write(MUL, module.first)
        module.first.mul_(5)
        keeper.before_write(MUL, module.second)
        module.second.mul_(5)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5]


@PASSES
def test_tensors_that_nobody_can_write_to_do_no_harm(passes: int) -> None:
    module = nn.Linear(2, 2)
    with torch.inference_mode():
        frozen = torch.ones(3)
    module.held = [frozen, torch.ones(1).expand(4), torch.ones(2, device="meta"), torch.tensor([float("inf")])]
    keeper = watched(module, passes)
    with keeper.kept():
        keeper.before_write(MUL, module.weight)
        module.weight.data.mul_(2)
    assert frozen.tolist() == [1, 1, 1]


@PASSES
def test_random_generators_of_a_module_are_put_back(passes: int) -> None:
    module = nn.Linear(2, 2)
    module.noise, module.numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)
    keeper = watched(module, passes)
    with keeper.kept():
        drawn = torch.rand(2, generator=module.noise), module.numpy.random(2)
    assert torch.equal(torch.rand(2, generator=module.noise), drawn[0])
    assert (module.numpy.random(2) == drawn[1]).all()


@PASSES
def test_everything_is_put_back_after_an_error(passes: int) -> None:
    module = Host()
    keeper = watched(module, passes)

    def fail() -> None:
        module.meter.update(1.0)
        module.late[0].count = 1
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"), keeper.kept():
        fail()
    assert module.meter.values == []
    assert module.late[0].count == 0


@PASSES
def test_a_comparison_that_fails_counts_as_a_change(passes: int) -> None:
    class Rude:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparing")

        __hash__ = None  # type: ignore[assignment]

    module = Host()
    keeper = watched(module, passes)
    with keeper.kept():
        module.late[0].last = Rude()
        module.net[2].inplace = np.zeros(3)
    assert module.late[0].last is None
    assert module.net[2].inplace is False


def test_the_trainer_is_not_looked_into() -> None:
    class Trainer:
        calls = 0

    module = nn.Linear(1, 1)
    module._trainer = trainer = Trainer()
    keeper = watched(module)
    with keeper.kept():
        trainer.calls = 1
    assert trainer.calls == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_submodule_is_no_obstacle() -> None:
    module = nn.Sequential(torch.jit.script(nn.Linear(2, 2)))
    keeper = watched(module)
    weight = module[0].weight.clone()
    with keeper.kept():
        keeper.before_write(MUL, module[0].weight)
        module[0].weight.data.mul_(2)
    assert torch.equal(module[0].weight, weight)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_module_and_keeper_works_on_the_copy(duplicate: Any) -> None:
    module, keeper = duplicate((module := Host(), watched(module)))
    with keeper.kept():
        module.late[0].count = 1
        module.meter.update(1.0)
    assert module.late[0].count == 0
    assert module.meter.values == []


def test_two_hundred_modules_are_cheap() -> None:
    small, large = (nn.Sequential(*(nn.Linear(2, 2) for _ in range(count))) for count in (1, 200))
    keepers = [watched(module) for module in (small, large)]

    def seconds(keeper: ModuleKeeper) -> float:
        def once() -> None:
            with keeper.kept():
                pass

        return min(timeit.repeat(once, number=20, repeat=10)) / 20

    assert seconds(keepers[1]) - seconds(keepers[0]) < 1e-3, "about 0.1 ms on a quiet machine"


LAYOUTS = {
    "coordinates": lambda dense: dense.to_sparse(),
    "rows": lambda dense: dense.to_sparse_csr(),
    "columns": lambda dense: dense.to_sparse_csc(),
}


class Graph(Classifier):
    """Passes features along the edges of a graph, which it holds as a sparse buffer, and counts in another way."""

    def __init__(self, layout: Any = LAYOUTS["coordinates"]) -> None:
        super().__init__()
        self.register_buffer("edges", layout(torch.eye(4) + torch.ones(4, 4).triu(2)))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._foreach_add_([self.count], 1.0)
        self.edges.mul_(1.5)
        return torch.sparse.mm(self.edges, self.net(x).T).T


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sparse_buffers_are_put_back(layout: Any) -> None:
    module = Graph(layout)
    before = module.edges.to_dense().clone()
    runner = StepRunner(module, None, module.training_step)
    module.log = lambda *args, **kwargs: None
    for _ in range(3):
        losses = runner.measure(features(), {"loss"}).loss
        assert losses.isfinite().all()
        assert torch.equal(module.edges.to_dense(), before)
        assert module.count.item() == 0.0


COMPRESSED = {
    "rows": lambda dense: dense.to_sparse_csr(),
    "columns": lambda dense: dense.to_sparse_csc(),
    "blocks of rows": lambda dense: dense.to_sparse_bsr((2, 2)),
    "blocks of columns": lambda dense: dense.to_sparse_bsc((2, 2)),
}


class Linking(Classifier):
    """Holds a sparse buffer that has more entries after each step."""

    def __init__(self, layout: Any) -> None:
        super().__init__()
        self.register_buffer("edges", layout(torch.eye(4)))
        self.full = layout(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.edges.resize_as_sparse_(self.full).copy_(self.full)
        return self.net(x)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize("layout", COMPRESSED.values(), ids=COMPRESSED)
def test_sparse_buffers_that_a_step_gives_more_entries_are_put_back(layout: Any) -> None:
    module = Linking(layout)
    module.log = lambda *args, **kwargs: None
    runner = StepRunner(module, None, module.training_step)
    for _ in range(3):
        assert runner.measure(features(), {"loss"}).loss.isfinite().all()
        assert torch.equal(module.edges.to_dense(), torch.eye(4))


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_what_cannot_be_put_back_is_an_error_whatever_the_pass_is_for(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passes on few rows and on rows in another order may fail by themselves, which is no error."""
    put_back, passes = ModuleKeeper._restore_values, []

    def restore(self: ModuleKeeper, written: set[int]) -> None:
        passes.append(1)
        if len(passes) == failing:
            self._saved = {0: [(torch.zeros(2), torch.ones(3))]}
            self._first = False
        put_back(self, written)

    monkeypatch.setattr(ModuleKeeper, "_restore_values", restore)
    module = Classifier()
    module.log = lambda *args, **kwargs: None
    with pytest.raises(
        TrainingStepContractError, match=r"Classifier.training_step .* got a torch.strided one of shape"
    ):
        StepRunner(module, None, module.training_step).measure(features(), {"loss"})


def test_sparse_features_are_batches_too() -> None:
    class Sparse(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0].to_dense(), batch[1]), batch_idx)

    x, y = features()
    whole, other = Classifier(), Sparse()
    other.load_state_dict(whole.state_dict())
    found = []
    for module, batch in ((whole, (x, y)), (other, (x.to_sparse(), y))):
        module.log = lambda *args, **kwargs: None
        found.append(StepRunner(module, None, module.training_step).measure(batch, {"loss"}).loss)
    assert torch.equal(*found)


def test_a_copy_that_does_not_fit_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Host()
    keeper = ModuleKeeper(module)
    tries = []

    def clone(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        tries.append(tensor)
        if len(tries) == 3:
            raise torch.OutOfMemoryError("no room")
        return tensor.detach() + 0

    def keep() -> None:
        with keeper.kept():
            pass

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", clone)
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            keep()
    assert len(tries) == 3
    assert not keeper._saved
    with keeper.kept():
        module.net[0].weight.data.zero_()
    assert module.net[0].weight.any()


def test_all_others_are_put_back_beside_one_that_cannot_be() -> None:
    module = Host()
    keeper, before = watched(module), module.net[0].weight.detach().clone()

    def run() -> None:
        with keeper.kept(), torch.no_grad():
            keeper._saved[0] = [(torch.zeros(2), torch.ones(3))]
            keeper.before_write(torch.Tensor.zero_, module.net[0].weight)
            module.net[0].weight.zero_()

    with pytest.raises(TrainingStepContractError, match="must leave its tensors such that they can be put back"):
        run()
    assert torch.equal(module.net[0].weight, before)
    assert not keeper._saved


@PASSES
def test_a_block_that_a_step_drops_from_a_list_is_put_back(passes: int) -> None:
    """To delete one, a ModuleList takes another table for the rest."""
    module = nn.Sequential(nn.ModuleList([nn.ReLU(), nn.Tanh(), nn.Sigmoid()]))
    blocks = list(module[0])
    keeper = watched(module, passes)
    with keeper.kept():
        del module[0][-1]
    assert list(module[0]) == blocks


@pytest.mark.parametrize("hidden", [True, False])
def test_every_part_is_scored_in_evaluation_mode(hidden: bool) -> None:
    """Also one that `modules` alone finds, or that is below another table of children than before."""
    modes: list[bool] = []

    class Wrapped(Classifier):
        held = (nn.Dropout(),)

        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            yield from super().named_modules(*args, **kwargs)
            if hidden:
                yield "drop", self.held[0]

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            modes.append((self.held[0] if hidden else self.drop).training)
            return super().training_step(batch, batch_idx)

    module = Wrapped()
    module.extra = [object()]
    module.drop = nn.Dropout()
    module.log = lambda *args, **kwargs: None
    runner = StepRunner(module, None, module.training_step)
    for _ in range(3):
        runner.measure(features(), {"loss"})
        vars(module)["_modules"] = {"net": module.net, "drop": nn.Dropout()}
    assert modes
    assert not any(modes)
    assert module.drop.training


def test_weights_that_are_not_there_yet() -> None:
    module = Classifier()
    module.net = nn.LazyLinear(CLASSES)
    module.log = lambda *args, **kwargs: None
    with pytest.raises(ConfigurationError, match="Classifier must have all its weights before its rows are scored"):
        StepRunner(module, None, module.training_step).measure(features(), {"loss"})
