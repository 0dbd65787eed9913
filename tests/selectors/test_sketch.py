from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_select.selectors.sketch import sketch
from lightning_select.signals.head.head import Head
from tests.scores.cases import HOST_READS, Operations


def of(logits: Tensor, valid: Tensor | None = None, **options: int) -> Tensor:
    return sketch(Head.of(logits), valid, **options)


def ratios(left: Tensor, right: Tensor, **options: int) -> Tensor:
    """Distances between sketches over those between logits."""
    return (of(left, **options) - of(right, **options)).norm(dim=1) / (left - right).flatten(1).norm(dim=1)


def text_like(rows: int, tokens: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits of few directions; something is common to all rows, something to the tokens of a row; of any length."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 64, generator=random) / 4
    hidden = 2 * torch.randn(64, generator=random) + torch.randn(rows, 1, 64, generator=random)
    hidden = hidden + 1.5 * torch.randn(rows, tokens, 64, generator=random)
    length = torch.randint(tokens // 4, tokens + 1, (rows, 1), generator=random)
    return hidden @ weight.T - 2 * torch.randn(classes, generator=random).abs(), torch.arange(tokens) < length


def noise(number: int, name: str) -> int:
    """Splitmix64 with Python's own numbers."""

    def wrap(value: int) -> int:
        return (value + 2**63) % 2**64 - 2**63

    start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
    value = wrap(number * 0x9E3779B97F4A7C15 + start)
    value = wrap((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9)
    value = wrap((value ^ (value >> 27)) * 0x94D049BB133111EB)
    return value ^ (value >> 31)


def column(place: int, period: int, dims: int, name: str) -> list[float]:
    """Cosines, then sines, of the frequencies with the smallest noise."""
    by_noise = sorted(range(1, (period + 1) // 2), key=lambda f: noise(f, f"frequencies {name}"))[: dims // 2]
    angles = [2 * math.pi * f * place / period for f in by_noise]
    return [math.sqrt(2 / dims) * f(angle) for f in (math.cos, math.sin) for angle in angles]


def sign(place: int, name: str) -> int:
    return -1 if noise(place, f"signs {name}") % 2 else 1


def reference(row: list[list[float]], valid: list[bool], dims: tuple[int, int], period: int, seed: int) -> list[float]:
    """One number at a time."""
    wide, narrow = dims
    classes, tokens = f"classes {seed}", f"tokens {seed}"
    total = [[0.0] * wide for _ in range(narrow)]
    number = 0
    for logits, counts in zip(row, valid, strict=True):
        if not counts:
            continue
        for place, logit in enumerate(logits):
            for j, by_class in enumerate(column(place, len(logits), wide, classes)):
                for i, by_token in enumerate(column(number, period, narrow, tokens)):
                    signs = sign(place, classes) * sign(number * wide + j, tokens)
                    total[i][j] += signs * by_class * by_token * logit
        number += 1
    return [value for line in total for value in line]


@pytest.mark.parametrize(("dims", "period", "seed"), [((4, 2), 16, 0), ((6, 4), 7, 3), ((2, 2), 3, 1)])
def test_every_number_is_that_of_a_loop(dims, period, seed):
    logits, valid = torch.randn(3, 6, 11), torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]])
    found = of(logits, valid.bool(), vocabulary_dims=dims[0], token_dims=dims[1], max_tokens=period, seed=seed)
    for row in range(3):
        expected = reference(logits[row].tolist(), valid[row].bool().tolist(), dims, period, seed)
        assert found[row].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("tokens", "classes", "period"), [(64, 512, 4096), (64, 501, 64), (512, 130, 4096), (99, 9, 9)]
)
def test_sketches_keep_distances(tokens, classes, period, seed):
    left, right = torch.randn(40, tokens, classes), torch.randn(40, tokens, classes)
    found = ratios(left, right, seed=seed, max_tokens=period)
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)
    assert found.std().item() < 0.13


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tokens", "classes", "period"), [(64, 1000, 4096), (200, 1000, 4096), (128, 3000, 32)])
def test_sketches_keep_distances_between_texts(tokens, classes, period, seed):
    logits, valid = text_like(20, tokens, classes, seed)
    found = torch.pdist(of(logits, valid, seed=seed, max_tokens=period))
    found /= torch.pdist(torch.where(valid.unsqueeze(-1), logits, 0.0).flatten(1))
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)
    assert found.std().item() < 0.06


@pytest.mark.parametrize(("dims", "period"), [((2, 2), 64), ((6, 4), 64), ((6, 4), 7), ((100, 8), 64)])
def test_squared_distances_are_kept_on_average_over_seeds(dims, period):
    # The difference to nothing of one block of equal values, as one-sided as logits get.
    block = torch.zeros(1, 30, 150)
    block[:, 3:24, 20:90] = 1.0
    options = {"vocabulary_dims": dims[0], "token_dims": dims[1], "max_tokens": period}
    squares = torch.stack([of(block, seed=seed, **options).norm().square() for seed in range(200)]) / (21 * 70)
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(200)


@pytest.mark.parametrize(("tokens", "classes"), [(5, 17), (6, 18), (12, 9), (18, 8)])
def test_the_projection_is_orthonormal_up_to_its_scale(tokens, classes):
    period, dims = (tokens if tokens < 10 else 6), 6 * 4
    units = torch.eye(tokens * classes).reshape(-1, tokens, classes)
    columns = of(units, vocabulary_dims=6, token_dims=4, max_tokens=period).double()
    assert torch.allclose(columns.T @ columns * dims / len(units), torch.eye(dims).double(), atol=1e-5)
    assert columns.norm(dim=1).tolist() == pytest.approx([1.0] * len(units))


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_difference_in_one_number_keeps_its_length(tokens):
    left = torch.randn(3, tokens, 700)
    right = left.clone()
    right[:, tokens - 1, 77] += 5.0
    assert ratios(left, right).tolist() == pytest.approx([1.0] * 3, rel=1e-4)


def test_short_sides_are_left_as_they_are():
    for classes in (10, 128):
        logits = torch.randn(3, classes)
        assert torch.equal(of(logits), logits)
        logits = torch.randn(3, 6, classes)
        assert torch.equal(of(logits, max_tokens=6).abs(), logits.flatten(1).abs())  # but for signs, in order
        assert of(logits, max_tokens=8).shape[1] == 8 * classes


@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 3), st.sampled_from([9, 200]))
def test_padding_and_prompts_on_either_side_do_not_matter(tokens, before, after, classes):
    logits, valid = torch.randn(3, tokens, classes), torch.ones(3, tokens, dtype=torch.bool)
    valid[1, tokens // 2] = False
    valid[2, : tokens // 3] = False
    alone = of(logits, valid, max_tokens=6)
    filler = torch.full((3, before + after, classes), torch.nan)
    padded = torch.cat([filler[:, :before], logits, filler[:, before:]], dim=1)
    mask = torch.nn.functional.pad(valid, (before, after))
    torch.testing.assert_close(of(padded, mask, max_tokens=6), alone, rtol=1e-5, atol=1e-5, equal_nan=True)
    # The tokens that do not count might as well not be there.
    torch.testing.assert_close(of(logits[:1], max_tokens=6), alone[:1], rtol=1e-5, atol=1e-5)
    if tokens > 1:
        without = torch.cat([logits[1:2, : tokens // 2], logits[1:2, tokens // 2 + 1 :]], dim=1)
        torch.testing.assert_close(of(without, max_tokens=6), alone[1:2], rtol=1e-5, atol=1e-5)


def test_a_row_without_valid_tokens_has_no_sketch():
    logits, valid = torch.randn(3, 4, 300), torch.ones(3, 4, dtype=torch.bool)
    valid[1] = False
    found = of(logits, valid)
    assert found.isnan().all(dim=1).tolist() == [False, True, False]
    assert found.isnan().any(dim=1).tolist() == [False, True, False]
    assert of(logits[:, 0], valid[:, 0]).isnan().any(dim=1).tolist() == [False, True, False]
    assert of(logits, torch.zeros_like(valid)).isnan().all()


def test_rows_without_tokens_are_one_token_and_images_are_flattened():
    logits, valid = torch.randn(4, 2, 3, 300), torch.rand(4, 2, 3) < 0.7
    assert torch.equal(of(logits), of(logits.flatten(1, 2)))
    torch.testing.assert_close(of(logits, valid), of(logits.flatten(1, 2), valid.flatten(1)), equal_nan=True)
    assert of(logits[:, 0, 0]).shape == (4, 128)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_logit_spoils_its_row_alone(bad):
    logits = torch.randn(3, 4, 300)
    clean = of(logits)
    logits[1, 2, 7] = bad
    assert not of(logits)[1].isfinite().any()
    torch.testing.assert_close(of(logits)[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_an_output_head_will_do_instead_of_logits(shape, bias):
    hidden, weight = torch.randn(*shape, 16), torch.nn.Parameter(torch.randn(300, 16))
    offset = torch.randn(300) if bias else None
    valid = torch.rand(shape) < 0.8
    logits = torch.nn.functional.linear(hidden, weight, offset)
    expected = of(logits, valid)
    found = sketch(Head.linear(hidden, weight, offset), valid)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert not found.requires_grad


class Sizes(TorchDispatchMode):
    """The most numbers in any tensor that is made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.most = max(self.most, made.numel())
        return made


def test_the_logits_are_never_made():
    head = Head.linear(torch.randn(8, 64, 16), torch.nn.Parameter(torch.randn(2000, 16)))
    with Sizes() as sizes:
        sketch(head, torch.rand(8, 64) < 0.5)
    assert sizes.most < 8 * 64 * 2000 / 3


def test_the_projection_is_a_function_of_the_seed():
    logits = torch.randn(2, 3, 300)
    first = of(logits, seed=1)
    torch.manual_seed(99)
    assert torch.equal(of(logits, seed=1), first)
    assert not torch.allclose(of(logits, seed=2), first)
    assert of(logits, seed=2**70).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sketches_are_made_in_float32(dtype):
    logits = torch.randn(2, 3, 300).to(dtype)
    expected = of(logits.float())
    assert torch.equal(of(logits), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(of(logits), expected)


def test_float64_comes_out_as_float32():
    logits = torch.randn(2, 3, 300)
    for classes in (300, 9):
        found = of(logits[..., :classes].double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, of(logits[..., :classes]))


def test_reads_nothing_back_to_the_host():
    with Operations() as operations:
        of(torch.randn(4, 5, 300), torch.rand(4, 5) < 0.5)
    assert not operations.names & HOST_READS
