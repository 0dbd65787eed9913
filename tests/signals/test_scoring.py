from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_select.batch import take_rows
from lightning_select.errors import BatchFormatError, TrainingStepContractError
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.scoring import StepRunner
from tests.modules import (
    CLASSES,
    ROWS,
    SCENARIOS,
    TOKENS,
    WORDS,
    Autoencoder,
    Base,
    Classifier,
    Fused,
    FusedWithStep,
    Manual,
    Penalised,
    Scenario,
    Tokens,
    TwoViews,
    Uncertain,
    features,
    text,
)

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


def runner_of(module, **kwargs) -> StepRunner:
    torch.manual_seed(0)
    return StepRunner(module, None, module.training_step, **kwargs)


def loss_of(module, batch) -> torch.Tensor:
    training = module.training
    module.eval()
    with torch.no_grad():
        output = (
            module.training_step(dict(batch) if isinstance(batch, dict) else batch, 0)
            if (type(module).__name__ != "OnlyBatch")
            else module.training_step(batch)
        )
    module.train(training)
    return output["loss"] if isinstance(output, dict) else output


@EVERY
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_row_losses_are_the_losses_of_the_rows_alone(scenario: Scenario) -> None:
    if not scenario.separate:
        pytest.skip("rows of this loss are not the losses of the rows alone; it has a test of its own")
    torch.manual_seed(0)
    module, batch = scenario.module(), scenario.batch()
    losses = runner_of(module).measure(batch, {"loss"}).loss
    alone = [loss_of(module, take_rows(batch, torch.tensor([row]))) for row in range(ROWS)]
    torch.testing.assert_close(losses, torch.stack(alone))


@EVERY
def test_row_losses_follow_the_rows(scenario: Scenario) -> None:
    torch.manual_seed(0)
    module, batch = scenario.module(), scenario.batch()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    runner = runner_of(module)
    plain = runner.measure(batch, {"loss"}).loss
    if scenario.module is Autoencoder:
        pytest.skip("each place has its own noise")
    torch.testing.assert_close(runner.measure(take_rows(batch, order), {"loss"}).loss, plain[order])


@EVERY
@pytest.mark.parametrize("train_mode", [False, True])
def test_nothing_is_left_behind(scenario: Scenario, train_mode: bool) -> None:
    torch.manual_seed(0)
    module, batch = scenario.module(), scenario.batch()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    attributes, rng, copy = dict(vars(module)), torch.get_rng_state(), scenario.batch()
    runner = runner_of(module, train_mode=train_mode)
    torch.set_rng_state(rng)
    for _ in range(3):
        runner.measure(batch, {"loss", "logits", "hidden"})
    assert torch.equal(torch.get_rng_state(), rng)
    assert vars(module) == attributes
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(submodule.training for submodule in module.modules())
    assert str(batch) == str(copy)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_any_number_of_rows(rows: int) -> None:
    losses = runner_of(Classifier()).measure(features(rows=rows), {"loss"}).loss
    assert losses.shape == (rows,)


def test_the_mean_of_the_row_losses_is_the_loss() -> None:
    for module in (Autoencoder(), TwoViews()):
        torch.manual_seed(3)
        rng = torch.get_rng_state()
        losses = StepRunner(module, None, module.training_step).measure(features(), {"loss"}).loss
        torch.set_rng_state(rng)
        torch.testing.assert_close(losses.mean(), loss_of(module, features()))


def test_stacked_views_belong_to_the_row_they_show() -> None:
    module = TwoViews()
    runner = runner_of(module)
    shape = runner.probe(features())
    assert shape.layouts == (Layout(0, inner=True),)


def test_noise_inside_the_step_does_not_hide_the_rows() -> None:
    shape = runner_of(Autoencoder()).probe(features())
    assert shape.layouts == (Layout(0), Layout(0))


def test_a_penalty_with_as_many_rows_as_the_batch_is_left_alone() -> None:
    shape = runner_of(Penalised()).probe(features())
    assert shape.names == ("F.cross_entropy", "Tensor.mean")
    assert shape.layouts == (Layout(0), None)
    assert 0 < shape.left_out < 0.5
    assert not shape.unseen


def test_what_is_left_unweighted_is_said_once_with_its_share(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    runner = runner_of(module := Penalised())
    for _ in range(3):
        runner.measure(features(), {"loss"})
    said = [record.message for record in caplog.records if "stays unweighted" in record.message]
    x, y = features()
    penalty = 0.1 * module.net[0].weight.square().mean()
    with torch.no_grad():
        share = float(penalty / (F.cross_entropy(module(x[:2]), y[:2]) + penalty))
    assert said == [
        f"Penalised.training_step: {share:.1%} of the loss does not belong to rows of the batch (Tensor.mean). "
        "It counts for no row and stays unweighted."
    ]


def test_a_penalty_that_passes_through_no_reduction_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    class Hidden(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self(x), y) + 0.01 * self.net[0].weight.std()

    caplog.set_level("INFO")
    shape = runner_of(Hidden()).probe(features())
    assert shape.unseen
    assert "(what passes through no reduction)" in caplog.text


def test_combining_losses_is_no_loss_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    class Scaled(Base):
        """Learned scales by hand, losses stacked and summed, and a log that makes them large."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([0.3, -2.0]))

        def training_step(self, batch, batch_idx):
            x, y = batch
            z = self(x) * 100
            losses = torch.stack([F.cross_entropy(z, y), torch.log(F.mse_loss(z, torch.ones_like(z)))])
            one = torch.exp(-self.scale[0]) * losses[0] + self.scale[0] + F.softplus(self.scale)[1]
            return torch.stack([one, losses[1]]).mean()

    for module in (Uncertain(), Scaled()):
        shape = runner_of(module).probe(features())
        assert shape.readable
        assert not shape.unseen
        assert shape.left_out == 0
    assert "stays unweighted" not in caplog.text


def test_a_fused_kernel_beside_a_small_term_is_refused() -> None:
    class Mostly(Fused):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + 1e-3 * self(batch[0]).square().mean()

    with pytest.raises(
        TrainingStepContractError, match=r"(9\d|100)% of the loss from something that is no reduction of torch"
    ):
        runner_of(Mostly()).measure(features(), {"loss"})


def test_a_penalty_is_found_out_even_where_the_module_insists_on_its_batch_size() -> None:
    class Fixed(Penalised):
        def training_step(self, batch, batch_idx):
            batch[0].view(ROWS, -1)
            if len(batch[0]) != ROWS:
                raise RuntimeError("this module was built for 8 rows")
            return super().training_step(batch, batch_idx)

    shape = runner_of(Fixed()).probe(features())
    assert shape.layouts == (Layout(0), None)
    assert shape.connected == (True, True)


def test_smooth_combinations_count_by_their_derivative() -> None:
    torch.manual_seed(0)
    module, (x, y) = Uncertain(), features()
    losses = runner_of(module).measure((x, y), {"loss"}).loss
    z = module(x)
    error = (z - 1).square().mean(1)
    expected = F.cross_entropy(z, y, reduction="none") + error / error.mean()
    torch.testing.assert_close(losses, expected.detach())


def test_coefficients_are_exact_in_every_pass() -> None:
    module, batch = Uncertain(), features()
    runner = runner_of(module)
    first = runner.measure(batch, {"loss"}).loss
    with torch.no_grad():
        module.log_scale[0] = 2.0
    second = runner.measure(batch, {"loss"}).loss
    z = module(batch[0])
    error = (z - 1).square().mean(1)
    expected = torch.exp(torch.tensor(-2.0)) * F.cross_entropy(z, batch[1], reduction="none") + error / error.mean()
    torch.testing.assert_close(second, expected.detach())
    assert not torch.allclose(first, second)


def test_logits_targets_and_hidden_of_a_classifier() -> None:
    torch.manual_seed(0)
    module, (x, y) = Classifier(), features()
    signals = runner_of(module).measure((x, y), {"loss", "logits", "hidden"})
    torch.testing.assert_close(signals.logits, module(x).detach())
    torch.testing.assert_close(signals.hidden, module.net[:2](x).detach())
    assert torch.equal(signals.targets, y)


def test_logits_of_a_hand_written_cross_entropy() -> None:
    from tests.modules import ByHand

    module, (x, y) = ByHand(), features()
    signals = runner_of(module).measure((x, y), {"loss", "logits"})
    torch.testing.assert_close(signals.logits, module(x).detach())
    assert torch.equal(signals.targets, y)


def test_logits_of_a_language_model_have_tokens() -> None:
    module, batch = Tokens(), text()
    signals = runner_of(module).measure(batch, {"logits", "hidden"})
    hidden, _ = module.rnn(module.embed(batch["input_ids"]))
    assert signals.logits.shape == (ROWS, TOKENS, WORDS)
    torch.testing.assert_close(signals.hidden, hidden.detach())
    torch.testing.assert_close(signals.logits, module.head(hidden).detach())
    assert torch.equal(signals.valid, batch["labels"] != -100)
    assert torch.equal(signals.targets, batch["labels"])


def test_logits_of_a_binary_loss_are_those_before_the_sigmoid() -> None:
    class Binary(Base):
        def training_step(self, batch, batch_idx):
            return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], (batch[1] > 1).float())

    module, (x, y) = Binary(), features()
    signals = runner_of(module).measure((x, y), {"logits"})
    assert signals.link == "sigmoid"
    torch.testing.assert_close(signals.logits, module(x)[:, :1].detach())
    assert torch.equal(signals.targets, (y > 1).float()[:, None])


class TestContract:
    """What cannot be read says what was seen and shows both ways out."""

    @pytest.mark.parametrize(
        "pattern", ["a fused kernel", '"sample_loss": losses', "def selection_step", "Fused.training_step"]
    )
    def test_a_fused_kernel(self, pattern: str) -> None:
        with pytest.raises(TrainingStepContractError, match=pattern):
            runner_of(Fused()).measure(features(), {"loss"})

    def test_manual_optimisation(self) -> None:
        with pytest.raises(TrainingStepContractError, match=r"Manual.training_step must .* manual optimisation"):
            runner_of(Manual()).measure(features(), {"loss"})

    def test_a_step_that_returns_nothing(self) -> None:
        class Nothing(Base):
            def training_step(self, batch, batch_idx):
                return None

        with pytest.raises(TrainingStepContractError, match="got None instead of a loss"):
            runner_of(Nothing()).measure(features(), {"loss"})

    def test_a_dict_without_a_loss(self) -> None:
        class Lossless(Base):
            def training_step(self, batch, batch_idx):
                return {"accuracy": 1.0}

        with pytest.raises(TrainingStepContractError, match=r"a dict with the keys \['accuracy'\]"):
            runner_of(Lossless()).measure(features(), {"loss"})

    def test_terms_that_are_not_rows(self) -> None:
        class Masked(Base):
            def training_step(self, batch, batch_idx):
                x, y = batch
                return F.cross_entropy(self(x)[y > 0], y[y > 0])

        with pytest.raises(
            TrainingStepContractError, match=r"rows in the batch and loss terms|of the module's own making"
        ):
            runner_of(Masked()).measure(features(), {"loss"})

    def test_sample_loss_of_a_wrong_length(self) -> None:
        class Short(Base):
            def training_step(self, batch, batch_idx):
                losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
                return {"loss": losses.mean(), "sample_loss": losses[1:]}

        with pytest.raises(TrainingStepContractError, match=r"'sample_loss' of shape \(7,\) for a batch of 8 rows"):
            runner_of(Short()).measure(features(), {"loss"})

    def test_an_iterator_instead_of_a_batch(self) -> None:
        class Iterating(Base):
            def training_step(self, dataloader_iter):
                return None

        with pytest.raises(TrainingStepContractError, match="dataloader_iter"):
            runner_of(Iterating())

    def test_selection_step_is_asked_instead(self) -> None:
        module, (x, y) = FusedWithStep(), features()
        losses = runner_of(module).measure((x, y), {"loss"}).loss
        torch.testing.assert_close(losses, F.cross_entropy(module(x), y, reduction="none").detach())

    def test_selection_step_must_return_signals_for_every_row(self) -> None:
        class Odd(Fused):
            def selection_step(self, batch):
                return F.cross_entropy(self(batch[0]), batch[1], reduction="none")

        with pytest.raises(TrainingStepContractError, match="from selection_step Tensor"):
            runner_of(Odd()).measure(features(), {"loss"})

    def test_an_empty_batch(self) -> None:
        with pytest.raises(BatchFormatError, match="at least one row, got an empty batch"):
            runner_of(Classifier()).measure(features(rows=0), {"loss"})

    def test_an_error_of_the_step_passes_through_and_leaves_nothing_behind(self) -> None:
        class Broken(Classifier):
            def training_step(self, batch, batch_idx):
                self.net[0].weight.data.mul_(2)
                self.seen = 1
                raise ZeroDivisionError("mine")

        module = Broken()
        before = module.net[0].weight.detach().clone()
        with pytest.raises(ZeroDivisionError, match="mine"):
            runner_of(module).measure(features(), {"loss"})
        assert torch.equal(module.net[0].weight, before)
        assert not hasattr(module, "seen")
        assert "log" not in vars(module)
        assert module.net[0].training


def test_a_classifier_is_scored_by_its_class_count() -> None:
    assert runner_of(Classifier()).measure(features(), {"logits"}).logits.shape[-1] == CLASSES
