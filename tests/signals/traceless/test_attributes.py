from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import random
import threading
import types
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_select.signals.traceless import attributes, content
from lightning_select.signals.traceless.attributes import AttributeKeeper
from lightning_select.signals.traceless.content import is_plain, put_back


def kept(*values: Any) -> attributes.KeptAttributes:
    return AttributeKeeper().keep(values)


class Meter:
    total = 0

    def __init__(self) -> None:
        self.values: list[float] = []
        self.inner: Any = None

    def update(self, value: float) -> None:
        self.total += value
        self.values.append(value)


class Slotted:
    __slots__ = ("__secret", "empty", "items")

    def __init__(self) -> None:
        self.items: list[int] = []
        self.__secret = 1

    def touch(self) -> None:
        self.items.append(1)
        self.__secret += 1
        self.empty = 3

    @property
    def secret(self) -> int:
        return self.__secret


class SlottedChild(Slotted):
    __slots__ = ("more",)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    numbers: list[int]
    count: int = 0


class Guarded:
    """Properties with a setter that counts, and attributes that may not be set."""

    def __init__(self) -> None:
        self._own().update(_rate=1.0, sets=0)

    def _own(self) -> dict[str, Any]:
        return object.__getattribute__(self, "__dict__")

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._own()["sets"] += 1
        self._own()["_rate"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "rate":
            raise AttributeError(name)
        super().__setattr__(name, value)

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise RuntimeError("nobody asks for this")
        return super().__getattribute__(name)


class Quarrelsome:
    """Refuses every question."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparing")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __len__(self) -> int:
        raise RuntimeError("no length")


class Bag(list):
    """A list whose every method is overridden."""

    def __iter__(self):
        raise RuntimeError("no iterating")

    def __len__(self):
        return 0

    def copy(self):
        raise RuntimeError("no copying")

    def __setitem__(self, key, value):
        raise RuntimeError("no setting")


class Table(dict):
    def __setitem__(self, key, value):
        raise RuntimeError("no setting")

    def clear(self):
        raise RuntimeError("no clearing")

    def values(self):
        raise RuntimeError("no values")


CONTAINERS = [
    ([1, [2]], lambda v: (v.append(3), v[1].append(4))),
    ({"train": []}, lambda v: (v["train"].append(1), v.update(new=1))),
    ({"a": 1, "b": 2}, lambda v: v.update(a=v.pop("a"))),
    (collections.defaultdict(list), lambda v: v["a"].append(1)),
    (collections.Counter(a=1), lambda v: v.update("ab")),
    (collections.OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
    (collections.OrderedDict(a=1, b=[]), lambda v: (v.popitem(last=False), v["b"].append(1))),
    (collections.deque([1, [2], 3], maxlen=3), lambda v: (v.append(4), v[0].append(5))),
    ({1, "a", (2, 3)}, lambda v: (v.remove("a"), v.add(9))),
    (([1], {"a": {"b": [2]}}), lambda v: (v[0].clear(), v[1]["a"]["b"].append(1), v[1]["a"].update(c=1))),
    ({"x": ({"y": [[[]]]},)}, lambda v: v["x"][0]["y"][0][0].append(1)),
    (collections.UserDict(a=[1]), lambda v: (v["a"].append(1), v.update(b=1))),
    (types.SimpleNamespace(a=[1]), lambda v: (v.a.append(1), setattr(v, "b", 1))),
    (argparse.Namespace(a=1), lambda v: setattr(v, "a", 2)),
    (Frozen([1]), lambda v: (v.numbers.append(2), object.__setattr__(v, "count", 5))),
]


@pytest.mark.parametrize(("value", "change"), CONTAINERS, ids=lambda v: type(v).__name__)
def test_containers_get_their_content_back(value: Any, change: Any) -> None:
    value = copy.deepcopy(value)
    before, order = copy.deepcopy(value), repr(value)
    held = kept(value)
    change(value)
    assert repr(value) != order or isinstance(value, set)
    held.restore()
    assert value == before
    assert isinstance(value, set) or repr(value) == order


def test_what_is_put_back_is_the_very_same_object() -> None:
    inner: list[int] = [1]
    outer = {"a": inner}
    held = kept(outer)
    outer["a"] = [1]
    inner.append(2)
    held.restore()
    assert outer["a"] is inner
    assert inner == [1]


def test_a_maxlen_and_a_factory_survive() -> None:
    last, by = collections.deque([1, 2], maxlen=2), collections.defaultdict(list)
    held = kept([last, by])
    last.append(3)
    by["x"].append(1)
    held.restore()
    assert last == collections.deque([1, 2])
    assert last.maxlen == 2
    assert by == {}
    assert by["y"] == []


def test_objects_get_their_attributes_back() -> None:
    meter, inner = Meter(), Meter()
    meter.inner, values = inner, meter.values
    held = kept(meter)
    meter.update(1.0)
    inner.update(2.0)
    meter.values, meter.new = [5.0], 1
    del meter.inner
    held.restore()
    assert vars(meter) == {"values": [], "inner": inner}
    assert meter.values is values
    assert meter.total == 0
    assert vars(inner) == {"values": [], "inner": None}


@pytest.mark.parametrize("kind", [Slotted, SlottedChild])
def test_slots_are_put_back_also_those_that_were_empty(kind: type) -> None:
    value = kind()
    items = value.items
    held = kept(value)
    value.touch()
    value.items = [7]
    held.restore()
    assert value.items is items
    assert items == []
    assert value.secret == 1
    assert not hasattr(value, "empty")


def test_properties_and_setters_are_not_called() -> None:
    value = Guarded()
    held = kept(value)
    value.rate = 2.0
    held.restore()
    assert value._own() == {"_rate": 1.0, "sets": 0}


def test_no_object_is_compared_counted_or_asked() -> None:
    first, second = Quarrelsome(), Quarrelsome()
    array = np.zeros(3)
    value = {"q": first, "list": [first], "array": array, "tensor": torch.zeros(2)}
    before = dict(value)
    held = kept(value, first)
    value.update(q=second, array=np.ones(3), tensor=torch.ones(2))
    value["list"].append(second)
    held.restore()
    assert all(value[name] is before[name] for name in before)
    assert list.__len__(value["list"]) == 1


def test_overridden_methods_of_containers_are_passed_by() -> None:
    bag, table = Bag([1, [2]]), Table(a=[1])
    bag.note = "x"
    held = kept([bag, table])
    bag.append(3)
    bag.note = "y"
    dict.__setitem__(table, "b", 1)
    table["a"].append(2)
    held.restore()
    assert list.copy(bag) == [1, [2]]
    assert bag.note == "x"
    assert dict.copy(table) == {"a": [1]}


def test_cycles_and_shared_objects_are_visited_once() -> None:
    first, second = Meter(), Meter()
    first.inner, second.inner = second, first
    ring: list[Any] = [first]
    ring.append(ring)
    held = kept(ring, first, second)
    assert len(held.restores) == 5
    first.update(1)
    ring.clear()
    held.restore()
    assert ring[0] is first
    assert ring[1] is ring
    assert first.values == []


def test_a_very_deep_nest() -> None:
    top: list[Any] = []
    bottom = top
    for _ in range(3000):
        bottom.append([])
        bottom = bottom[0]
    held = kept(top)
    bottom.append(1)
    held.restore()
    assert bottom == []


@pytest.mark.parametrize("dtype", ["f4", "i8", "O", "U3"])
def test_arrays_written_in_place(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    before, view = array.copy(), array[0]
    held = kept({"array": array, "view": view})
    array[1, 1] = 77
    view[:] = 5
    held.restore()
    assert (array == before).all()


def test_masked_arrays_read_only_arrays_and_resized_ones() -> None:
    masked = np.ma.masked_array(np.arange(3.0), mask=[0, 1, 0])
    fixed, grown = np.arange(3), np.arange(3)
    fixed.flags.writeable = False
    held = kept([masked, fixed, grown])
    masked[0] = np.ma.masked
    masked[2] = 9
    grown.resize(5, refcheck=False)
    held.restore()
    assert masked.mask.tolist() == [False, True, False]
    assert masked.data.tolist() == [0, 1, 2]
    assert fixed.tolist() == [0, 1, 2]
    assert grown.tolist() == [0, 1, 2, 0, 0]


def test_arrays_above_the_limit_are_taken_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_ARRAY", 4)
    small, large = np.zeros(4), np.zeros(5)
    held = kept(small, large)
    small += 1
    large += 1
    held.restore()
    assert small.sum() == 0
    assert large.sum() == 5


GENERATORS = [
    (torch.Generator().manual_seed(3), lambda g: torch.rand(3, generator=g).tolist()),
    (random.Random(3), lambda g: [g.random(), g.gauss(0, 1)]),
    (np.random.default_rng(3), lambda g: g.random(3).tolist()),
    (np.random.RandomState(3), lambda g: [g.rand(), g.randn()]),
    (np.random.PCG64(3), lambda g: g.random_raw(3).tolist()),
]


@pytest.mark.parametrize(("generator", "draw"), GENERATORS, ids=lambda v: type(v).__name__)
def test_random_generators_draw_the_same_again(generator: Any, draw: Any) -> None:
    meter = Meter()
    meter.inner = [generator]
    held = kept(meter)
    first = draw(generator)
    held.restore()
    assert draw(generator) == first


class Colour(enum.Enum):
    RED = 1


class Worker:
    """Talks to the outside in a thread of its own."""

    def __init__(self) -> None:
        self.thread = threading.Thread()
        self.sent: list[int] = []


class Data(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.reads = 0


@pytest.mark.parametrize(
    "value",
    [
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1),
        Data(),
        Worker(),
        Colour.RED,
        random.SystemRandom(),
        threading.Lock(),
        Meter,
        iter([1]),
        (i for i in range(3)),
        1.5,
    ],
    ids=lambda v: type(v).__name__,
)
def test_left_alone(value: Any) -> None:
    held = kept(value, [value])
    if isinstance(value, Data):
        value.reads = 1
    if isinstance(value, Worker):
        value.sent.append(1)
        value.new = 2
    held.restore()
    assert len(held.restores) == (2 if isinstance(value, Worker) else 1)
    if isinstance(value, Data):
        assert value.reads == 1
    if isinstance(value, Worker):
        assert value.sent == [1]
        assert value.new == 2


def test_a_lock_does_not_stop_a_meter_from_being_put_back() -> None:
    meter = Meter()
    meter.inner = threading.Lock()
    held = kept(meter)
    meter.update(1.0)
    held.restore()
    assert meter.values == []


def test_tensors_and_modules_are_reported() -> None:
    net, known = nn.Linear(1, 1), nn.Linear(1, 1)
    one, two = torch.zeros(1), nn.Parameter(torch.zeros(1))
    meter = Meter()
    meter.inner = {"a": (one, net), "b": [two, known]}
    held = AttributeKeeper().keep([meter, one], {id(known)})
    assert {id(tensor) for tensor in held.tensors} == {id(one), id(two)}
    assert held.modules == {id(net): net}


def test_a_large_flat_container_is_searched_once_and_put_back_always() -> None:
    keeper, values = AttributeKeeper(), [0.5] * 2000
    for _ in range(3):
        held = keeper.keep([values])
        values.append(1.0)
        values[0] = 2.0
        held.restore()
        assert values == [0.5] * 2000
    assert keeper._flat == {id(values)}
    values[5] = nested = []  # type: ignore[call-overload]
    held = keeper.keep([values])
    nested.append(1)
    held.restore()
    assert nested == [1], "documented: not searched again"
    keeper.keep([])
    assert keeper._flat == set()


def test_a_large_container_of_lists_is_searched_in_every_pass() -> None:
    keeper, rows = AttributeKeeper(), [[] for _ in range(2000)]
    for _ in range(2):
        held = keeper.keep([rows])
        rows[1500].append(1)
        held.restore()
        assert rows[1500] == []


def test_tensors_of_a_small_container_are_reported_and_those_of_a_large_one_not() -> None:
    for count, seen in ((1000, 1000), (1001, 0)):
        assert len(kept([torch.zeros(1) for _ in range(count)]).tensors) == seen


def test_too_many_objects_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "_NODES", 10)
    keeper, rows, near = AttributeKeeper(), [[] for _ in range(20)], Meter()
    with pytest.warns(
        UserWarning, match=r"holds more than 10 containers and objects.*rest \(at a list\) stays changed"
    ):
        held = keeper.keep([rows, near])
    near.total = 5
    rows.clear()
    held.restore()
    assert near.total == 0, "what is near the top comes first"
    assert len(rows) == 20
    keeper.keep([rows])


def test_what_is_plain() -> None:
    assert all(map(is_plain, (1, 1.5, "a", None, (3, (4, "b")), torch.float32, torch.Size([1]), len, Meter)))
    assert not any(map(is_plain, ([], (1, []), {}, torch.zeros(1), Meter(), np.zeros(1), Colour.RED)))


def test_a_dict_keeps_its_place_where_only_values_changed() -> None:
    now, before = collections.OrderedDict(a=1, b=2), {"a": 5, "b": 2}
    entries = iter(now)
    next(entries)
    put_back(now, before)
    assert next(entries) == "b", "no key came or went"
    assert now == before


LEAVES = st.integers() | st.text(max_size=2) | st.none()
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


def scramble(value: Any, rng: random.Random) -> None:
    """Change every container below ``value`` in some way."""
    for entry in list(value.values() if isinstance(value, dict) else value):
        if isinstance(entry, (list, dict)):
            scramble(entry, rng)
    how = rng.randrange(4)
    if how == 0:
        value.clear()
    elif isinstance(value, dict):
        value[rng.choice(["", "new", *value])] = [how]
    elif how == 1 or not value:
        value.insert(0, {"new": how})
    elif how == 2:
        value.reverse()
    else:
        del value[-1]


@settings(max_examples=60)
@given(nest=NESTS, seed=st.integers(0, 1000))
def test_any_nest_comes_back(nest: Any, seed: int) -> None:
    value = [nest]
    before = repr(value)
    held = kept(value)
    scramble(value, random.Random(seed))
    held.restore()
    assert repr(value) == before
