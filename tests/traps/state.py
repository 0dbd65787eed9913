"""Traps 38 to 50, 55 and 56: checkpoints, namespaces, private names, short runs, row ids."""

from __future__ import annotations

from tests.traps.trap import BOTH, LIGHTNING, TORCH, Trap

__all__ = ["STATE"]

_FEEDBACK, _STATE = "tests/callbacks/test_sampler_feedback.py", "tests/traps/test_state.py"
_VALIDATED = "tests/callbacks/test_saved_in_validation.py"
_RESUMED = f"{_FEEDBACK}::test_every_checkpoint_resumes_bit_for_bit"
_LATE = f"{_STATE}::test_a_strategy_that_restores_late_goes_on_bit_for_bit"
_KEYS = f"{_STATE}::test_every_callback_has_a_key_of_its_own_and_keeps_tensors_and_primitives"

STATE = (
    Trap(
        "38",
        "A plain `DataLoader` has no state, and never asks its sampler for one.",
        "The state of a sampler is that of a callback, in every checkpoint; a `StatefulDataLoader` is kept from having "
        "another.",
        (_RESUMED, "tests/callbacks/test_stateful_loader.py::test_it_resumes_bit_for_bit"),
        seen=BOTH,
    ),
    Trap(
        "39",
        "A run resumed amid an epoch gets another permutation from its start: some rows twice, some never.",
        "The state holds what was trained on, not what workers had drawn, and the rows in between come first.",
        (_RESUMED, "tests/test_kill.py::test_one_kill"),
    ),
    Trap(
        "40",
        "`estimated_stepping_batches` in `configure_optimizers` makes the loader before it is restored, and a loader's "
        "saved state is then never loaded (pytorch-lightning#20550).",
        "A sampler is restored when its loader is met, before it draws, whichever comes first.",
        (_RESUMED, _LATE),
    ),
    Trap(
        "41",
        "FSDP, DeepSpeed and ModelParallel restore callbacks after the strategy is set up.",
        "A state that comes late is taken in, unless workers have drawn: that is an error which says what to leave "
        "out.",
        (_LATE, f"{_STATE}::test_where_workers_have_drawn_before_it_restores_it_is_told"),
    ),
    Trap(
        "42",
        "Two callbacks of one class have one key in the checkpoint.",
        "The key has the name, and names must differ.",
        (
            _KEYS,
            "tests/test_bad_input.py::TestArguments::test_two_callbacks_of_one_name",
            f"{_FEEDBACK}::test_two_added_by_hand_need_two_names",
        ),
    ),
    Trap(
        "43",
        "The state of callbacks is in every checkpoint, and copied when it is loaded.",
        "Compact columns of a stated size, tensors and primitives only (`weights_only=True` loads them), nothing of "
        "rows where nobody keeps account of rows.",
        (
            _KEYS,
            f"{_STATE}::test_a_run_without_rows_of_ours_saves_no_state_of_rows",
            f"{_STATE}::test_the_state_that_is_saved_is_not_what_training_goes_on_with",
            "tests/test_history.py::test_it_takes_the_memory_that_it_says",
        ),
    ),
    Trap(
        "44",
        "Other callbacks save checkpoints in any hook; the tuner trains with callbacks of its own.",
        "A sampler is fed before any other callback's turn; `lr_find` leaves it fit for use.",
        (
            f"{_FEEDBACK}::test_checkpoints_of_other_callbacks_hold_the_place_too",
            f"{_FEEDBACK}::test_the_learning_rate_finder_goes_before",
        ),
    ),
    Trap(
        "45",
        "`lightning.pytorch` and `pytorch_lightning` are two packages; a Trainer of one is none of the other.",
        "Nobody asks for the class of a Trainer or module.",
        (
            "tests/traps/test_design.py::test_nobody_asks_of_what_namespace_a_trainer_or_a_module_is",
            "tests/callbacks/test_loss_reweighting.py::test_both_namespaces",
            "tests/test_device_loader.py::test_validation_and_both_namespaces",
        ),
    ),
    Trap(
        "46",
        "Private names move between minor versions (lightning-bolts#962).",
        "They are in `compat.py` alone, each with a test that says what depends on it.",
        (
            "tests/traps/test_design.py::test_no_private_name_of_a_trainer_or_module_is_used_outside_of_compat",
            "tests/test_torch_compat.py::test_private_names_live_in_two_files",
            "tests/test_compat.py::test_the_places_where_we_stand_are_called_as_we_expect",
        ),
        seen=BOTH,
    ),
    Trap(
        "47",
        "`num_training_batches` and the progress bar show the first epoch's length.",
        "Epochs keep their length, or are loaded anew.",
        ("tests/traps/test_data_flow.py::test_epochs_that_change_their_length_are_trained_and_evaluated_whole",),
    ),
    Trap(
        "48",
        "A value with `prog_bar=True` is fetched from the device in every step, also with the bar off "
        "(pytorch-lightning#21232).",
        "Nothing of ours goes there, and values are made only when loggers are due.",
        (
            "tests/traps/test_design.py::test_nothing_goes_to_the_progress_bar",
            "tests/callbacks/test_loss_reweighting.py::test_metrics_appear_only_when_the_loggers_are_due",
        ),
    ),
    Trap(
        "49",
        "`fast_dev_run`, limits and the sanity check leave most rows unseen.",
        "Rows never seen are marked so, and samplers treat them as such.",
        (
            f"{_FEEDBACK}::test_short_runs",
            "tests/test_history.py::test_rows_never_seen_are_marked_and_not_zero",
            "tests/test_bad_input.py::TestData::test_shortened_fits_select_all_the_same",
        ),
        seen=LIGHTNING,
    ),
    Trap(
        "50",
        "Datasets yield no ids; wrappers around them break collate functions, and fall into endless recursion when "
        "they are unpickled.",
        "Ids are heard where the batch sampler draws. The dataset is not wrapped, and what listens can be copied and "
        "pickled.",
        (
            "tests/traps/test_steps.py::test_copies_of_a_loader_are_made_amid_a_fit",
            "tests/samplers/test_base.py::test_samplers_can_be_copied_and_pickled",
            "tests/callbacks/test_sampler_feedback.py::test_rows_that_the_collate_function_adds",
        ),
        seen=TORCH,
    ),
    Trap(
        "55",
        "A run resumed from the validation after the last batch of an epoch enters that epoch again to end it, when "
        "its workers have begun the next one.",
        "An epoch of which nothing has arrived is not ended there.",
        (
            f"{_VALIDATED}::test_every_checkpoint_of_validation_resumes_bit_for_bit",
            f"{_VALIDATED}::test_a_pass_that_is_resumed_there_meets_every_row_once",
            "tests/test_kill.py::test_a_kill_after_the_validation_at_the_end_of_an_epoch",
        ),
    ),
    Trap(
        "56",
        "A checkpoint of a validation between two micro-batches holds no gradients, so the step that follows lacks "
        "those of the first ones.",
        "The rows go on where they were; [the page on resuming](ddp_and_resume.md) says when to validate.",
        (f"{_STATE}::test_lightning_loses_the_gradients_of_micro_batches_and_the_rows_go_on",),
    ),
)
