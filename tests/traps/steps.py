"""Traps 22 to 37: batches, hooks, logging, numerics and compilers."""

from __future__ import annotations

from tests.traps.trap import BOTH, LIGHTNING, TORCH, Trap

__all__ = ["HOOKS", "NUMERICS"]

_STEPS, _LAWS, _DESIGN = "tests/traps/test_steps.py", "tests/test_laws.py", "tests/traps/test_design.py"
_METRICS = f"{_STEPS}::test_metrics_of_an_epoch_are_those_of_the_rows_trained_on_by_their_number"
_NO_TRACE = f"{_LAWS}::test_law_1_scoring_leaves_no_trace"

HOOKS = (
    Trap(
        "22",
        "Callbacks cannot hand back a batch, and a tuple cannot be changed in place.",
        "We stand where the strategy moves a batch to its device, and make a new container of the same kind.",
        (
            f"{_STEPS}::test_rows_are_taken_from_a_batch_of_any_form_and_the_loaders_batch_stays",
            "tests/test_batch.py::test_a_copy_shares_tensors_and_no_container",
        ),
    ),
    Trap(
        "23",
        "`on_after_batch_transfer` runs for evaluation too, may be the data module's, and cannot log.",
        "Not used. Evaluation, test and prediction see whole batches.",
        (
            f"{_STEPS}::test_evaluation_and_prediction_see_whole_batches_and_the_hooks_of_the_data",
            "tests/callbacks/test_batch_selection.py::test_validation_is_left_alone",
        ),
    ),
    Trap(
        "24",
        "A step that is run once more logs once more, and may overwrite the metric of the epoch.",
        "`log`, `log_dict` and the loggers are mute while rows are scored.",
        (_METRICS, _NO_TRACE),
    ),
    Trap(
        "25",
        "The batch size that metrics of an epoch count with is that of the first `log` of a batch.",
        "As nothing is logged while scoring, it is the number of rows trained on.",
        (_METRICS,),
    ),
    Trap(
        "26",
        "Metrics of torchmetrics that the step updates would be updated twice.",
        "The module is put back after scoring, metrics, counters and queues with it.",
        (_METRICS, _NO_TRACE),
    ),
    Trap(
        "27",
        "With manual optimisation, running the step is taking a step.",
        "The step is never run for scoring then: `selection_step` is asked, or it is an error.",
        (
            "tests/test_bad_input.py::TestSteps::test_manual_optimisation",
            f"{_LAWS}::test_manual_optimisation_works_through_selection_step",
            "tests/callbacks/test_sampler_feedback.py::test_manual_optimisation_returns_its_losses",
        ),
    ),
    Trap(
        "28",
        'The `outputs["loss"]` of hooks is divided by `accumulate_grad_batches` (pytorch-lightning#15315).',
        "Losses of rows are read in the forward pass; nobody reads that entry.",
        (
            f"{_STEPS}::test_losses_heard_are_not_divided_by_the_batches_that_gradients_add_up_over",
            f"{_DESIGN}::test_nobody_reads_the_loss_that_lightning_divided",
        ),
    ),
    Trap(
        "29",
        "Micro-batches count alike however many of their rows are left.",
        "The number of rows kept is the same in all of them.",
        (f"{_STEPS}::test_micro_batches_count_by_the_rows_that_are_kept",),
    ),
    Trap(
        "30",
        "LBFGS asks for the loss several times per step. (An `optimizer_step` that never asks is Lightning's error.)",
        "What is remembered of rows is entered once per batch, after the step.",
        (
            f"{_STEPS}::test_an_optimizer_that_asks_for_the_loss_several_times_teaches_a_sampler_once",
            "tests/callbacks/test_loss_reweighting.py::test_several_closure_calls_per_step",
        ),
    ),
    Trap(
        "31",
        "`-1` from `on_train_batch_start` ends the epoch, and only the module's counts.",
        "No hook of ours returns anything there.",
        (f"{_DESIGN}::test_no_hook_ends_the_epoch",),
    ),
)

NUMERICS = (
    Trap(
        "32",
        "Scoring in training mode moves BatchNorm's statistics twice and uses up random numbers of dropout.",
        "Scoring runs in evaluation mode, flag by flag; statistics, flags and all generators are put back, also with "
        "`train_mode=True`.",
        (_NO_TRACE, "tests/signals/traceless/test_generators.py::test_every_generator_is_as_before"),
        seen=TORCH,
    ),
    Trap(
        "33",
        "Tensors of `inference_mode` cannot weigh a loss later.",
        "Scoring uses `no_grad`.",
        (
            f"{_DESIGN}::test_no_tensor_is_made_that_a_loss_cannot_be_weighted_with",
            f"{_STEPS}::test_scoring_has_the_precision_of_training",
        ),
        seen=TORCH,
    ),
    Trap(
        "34",
        "A pass outside of the precision plugin's context runs in float32.",
        "Scoring enters that context.",
        (f"{_STEPS}::test_scoring_has_the_precision_of_training",),
    ),
    Trap(
        "35",
        "The scaler of float16 scales the loss before the backward pass; weights on gradients would come too late.",
        "Weights act on the gradient that each row sends into the loss; what is remembered of rows is float32.",
        (
            f"{_STEPS}::test_weights_are_in_the_loss_that_a_scaler_scales",
            f"{_STEPS}::test_what_is_remembered_of_rows_is_float32",
            "tests/test_gpu.py::test_half_precision_with_a_scaler_trains",
        ),
        seen=BOTH,
    ),
    Trap(
        "36",
        "`torch.compile` compiles again for each mode, and for other sizes of the batch.",
        "Sizes are constant; after the first two steps nothing is compiled.",
        (f"{_STEPS}::test_a_compiled_network_is_not_compiled_again_and_again",),
        seen=TORCH,
    ),
    Trap(
        "37",
        "`trainer.fit(torch.compile(module))` puts a compiled `training_step` on the instance, and takes it off again.",
        "Our wrap goes around it and is gone before.",
        (
            f"{_STEPS}::test_a_module_compiled_as_a_whole_is_handed_back_as_it_was",
            f"{_LAWS}::test_law_1_with_the_whole_module_compiled",
        ),
        seen=LIGHTNING,
    ),
)
