"""Traps 12 to 21: several ranks."""

from __future__ import annotations

from tests.traps.trap import BOTH, LIGHTNING, TORCH, Trap

__all__ = ["RANKS"]

_SHARED = "tests/test_samplers_distributed.py"
_SELECTED = "tests/test_distributed.py::test_ranks_select_rows_of_their_own_and_equally_many"
_HALVES = "tests/traps/test_ranks.py::test_each_rank_trains_on_half_whatever_lightning_is_told"

RANKS = (
    Trap(
        "12",
        "A sampler that is no `DistributedSampler` is wrapped in one that lists it once per epoch: nothing adaptive is "
        "left of it.",
        "Our samplers are `DistributedSampler`s, which are left alone, also inside of a batch sampler.",
        (
            "tests/samplers/test_base.py::test_lightning_leaves_it_as_it_is",
            f"{_SHARED}::test_rows_learnt_to_zero_on_one_rank_stay_away_on_both_within_the_epoch",
        ),
    ),
    Trap(
        "13",
        "That wrapper takes every other row of what each rank drew; ranks with other seeds then share rows.",
        "Draws depend on (seed, epoch, draw) and on what was learnt, never on the global generator.",
        (
            "tests/traps/test_ranks.py::test_ranks_seeded_apart_share_one_stream",
            f"{_SHARED}::test_ranks_share_one_stream_and_learn_the_same",
        ),
    ),
    Trap(
        "14",
        "With `use_distributed_sampler=False` every rank trains on the whole epoch.",
        "Our samplers share the draws themselves, whatever the flag says.",
        (_HALVES,),
    ),
    Trap(
        "15",
        "A batch sampler that is none of torch's is a TypeError, others are made anew with a copy of the loader "
        "(pytorch-lightning#18391).",
        "We offer samplers, and are found through batch samplers of any class, which stay as they are. Row ids are "
        "taken from the loader that the Trainer made.",
        (_HALVES, "tests/callbacks/test_sampler_feedback.py::test_a_batch_sampler_without_a_length_or_a_size"),
    ),
    Trap(
        "16",
        "A `training_step` that returns None on several ranks is an error.",
        "We never skip a step: a selection keeps the same number of rows, at least one, and weights may be zero.",
        (_SELECTED, "tests/callbacks/test_batch_selection.py::test_kept_count"),
    ),
    Trap(
        "17",
        "Ranks must run wrapped passes and collectives equally often, or they wait for each other.",
        "All ranks score, by the bare module. What is found out about a step takes as many runs on each; only where "
        "a step talks to other ranks, and one rank's first rows are all alike or its loss gets new terms, would they "
        "differ.",
        ("tests/traps/test_ranks.py::test_a_step_that_asks_the_other_rank_is_scored_on_both_as_often",),
        seen=BOTH,
    ),
    Trap(
        "18",
        "A pass beside the wrapper is right with DDP, and finds only shards of the weights with FSDP.",
        "Scoring goes by the bare module, with FSDP from inside of the wrapper, and never through "
        "`strategy.training_step`, which broadcasts buffers again.",
        (
            "tests/traps/test_design.py::test_no_step_is_run_through_the_wrapper_of_the_strategy",
            "tests/signals/head/test_steps.py::test_sharded_weights_are_not_relied_on",
        ),
        seen=BOTH,
    ),
    Trap(
        "19",
        "DDP averages the means of ranks, so rows of a rank with fewer rows count more.",
        "Each rank keeps equally many rows; weights have a mean of one over the rows of all ranks.",
        (
            _SELECTED,
            "tests/test_distributed.py::test_law_4_two_ranks_of_half_a_batch_reweight_like_one_of_the_whole",
        ),
        seen=TORCH,
    ),
    Trap(
        "20",
        "Ids that travel in one tensor with losses take their dtype: 2049 becomes 2048 in half precision.",
        "Ids go as int64, in a tensor of their own.",
        (
            "tests/traps/test_ranks.py::test_ids_keep_their_digits_whatever_the_losses_are_kept_in",
            "tests/test_history.py::test_ids_keep_all_their_digits",
        ),
        seen=TORCH,
    ),
    Trap(
        "21",
        "On several ranks Lightning itself waits for the device in every step, to hear of SIGTERM.",
        "We say that nothing of ours waits, never that a step of Lightning does not.",
        ("tests/test_gpu.py::test_law_7_a_steady_step_waits_for_nothing",),
        seen=LIGHTNING,
    ),
)
