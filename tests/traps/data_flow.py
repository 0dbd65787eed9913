"""Traps 1 to 11: the way of the data, and how long an epoch is."""

from __future__ import annotations

from tests.traps.trap import BOTH, LIGHTNING, TORCH, Trap

__all__ = ["DATA_FLOW"]

_CHANGED = "tests/traps/test_data_flow.py::test_epochs_that_change_their_length_are_trained_and_evaluated_whole"
_REFUSED = "tests/traps/test_data_flow.py::test_where_the_trainer_would_cut_them_they_are_refused"
_FEEDBACK = "tests/callbacks/test_sampler_feedback.py"

DATA_FLOW = (
    Trap(
        "1",
        "The batch at which an epoch is validated is fixed when the loader is set up. An epoch that gets shorter never "
        "reaches it, and is not validated, without a word.",
        "Epochs keep their length. A sampler whose epochs change needs `reload_dataloaders_every_n_epochs=1`, or is "
        "refused.",
        (_CHANGED, _REFUSED),
    ),
    Trap(
        "2",
        "The number of batches of an epoch is fixed there too. An epoch that gets longer is cut off, also with "
        "`check_val_every_n_epoch=None`.",
        "The same rule. Only loading anew every epoch is accepted.",
        (_CHANGED, _REFUSED),
    ),
    Trap(
        "3",
        "With loaders made anew the length is asked before `set_epoch` is called; a sampler that changes it there "
        "is one epoch late.",
        "A sampler plans the next epoch when one ends (`end_epoch`), and `set_epoch` does nothing under a Trainer.",
        (
            _CHANGED,
            "tests/samplers/test_info_batch.py::test_an_epoch_shrinks_and_its_length_is_known_before_it_starts",
        ),
    ),
    Trap(
        "4",
        "Workers are handed the first rows while the loader is set up, before `on_train_start` and most hooks.",
        "A sampler is told its batch size, its device and the state of a checkpoint where the Trainer processes the "
        "loader, before anything is drawn.",
        ("tests/traps/test_data_flow.py::test_a_sampler_is_ready_before_anything_is_drawn",),
        seen=BOTH,
    ),
    Trap(
        "5",
        "Workers draw `num_workers x prefetch_factor` batches ahead of the training.",
        "The distance is logged (`sampler/lag`); `lag=` fixes it, `DeviceLoader` and `BatchSelection` have none, and "
        "weights are those of the chances at the draw.",
        (
            f"{_FEEDBACK}::test_the_lag_is_logged",
            "tests/samplers/test_base.py::test_with_a_lag_of_its_own_the_workers_make_no_difference",
            "tests/test_device_loader.py::test_a_batch_knows_what_the_one_before_taught",
        ),
        seen=TORCH,
    ),
    Trap(
        "6",
        "Weights that are changed on a `WeightedRandomSampler` count from the next epoch on.",
        "Our samplers draw when they are asked, and `Weighted` acts on the next draw.",
        (
            "tests/samplers/test_weighted.py::test_weights_act_on_the_next_draw",
            f"{_FEEDBACK}::test_an_adaptive_sampler_follows_within_the_epoch",
        ),
        seen=TORCH,
    ),
    Trap(
        "7",
        "`BatchSampler` asks for an iterator once per batch; a sampler that starts over and returns itself never ends.",
        "`__iter__` of every sampler is a generator function.",
        ("tests/traps/test_data_flow.py::test_every_iteration_is_a_fresh_generator",),
        seen=TORCH,
    ),
    Trap(
        "8",
        "An `IterableDataset` has no sampler. A step that takes `dataloader_iter` gets batches that pass by all hooks.",
        "Streams are selected from batch by batch, and asked for ids only where a score needs them; a step with "
        "`dataloader_iter` is refused. What we log has a batch size of its own.",
        (
            "tests/traps/test_data_flow.py::test_a_step_that_takes_its_batches_itself_is_told",
            "tests/test_bad_input.py::TestData::test_an_iterable_dataset_has_no_ids_and_needs_none",
            "tests/samplers/test_base.py::test_bad_arguments",
        ),
    ),
    Trap(
        "9",
        "Several train loaders make one nested batch, and the shortest starts again amid the epoch.",
        "Rows of several loaders have no common ids, and whoever needs ids refuses; a sampler of ours wants to be the "
        "only loader's.",
        (
            f"{_FEEDBACK}::test_two_loaders_are_refused",
            "tests/callbacks/test_batch_selection.py::test_two_loaders_have_no_common_ids",
            "tests/test_compat.py::test_training_loaders_are_counted",
        ),
    ),
    Trap(
        "10",
        "`overfit_batches` puts a `SequentialSampler` in the place of yours.",
        "Refused with a sampler of ours; callbacks go on with the rows that there are.",
        (
            f"{_FEEDBACK}::test_overfitting_is_refused_since_it_replaces_the_sampler",
            "tests/test_device_loader.py::test_overfitting_is_refused",
            "tests/test_bad_input.py::TestData::test_shortened_fits_select_all_the_same",
        ),
    ),
    Trap(
        "11",
        "`estimated_stepping_batches` and schedules made from it are planned on the length of the first epoch.",
        "Epochs keep their length, so that the plan holds. The mode that shrinks says in its docstring that it does "
        "not.",
        (
            "tests/traps/test_data_flow.py::test_a_schedule_planned_on_the_length_of_training_ends_where_training_ends",
            "tests/test_compat.py::test_planned_steps_are_those_that_lightning_estimates",
        ),
        seen=LIGHTNING,
    ),
)
