"""Defects of other projects, traps of Hydra, and traps of evaluation."""

from __future__ import annotations

from tests.traps.trap import Trap

__all__ = ["EVALUATION", "HYDRA", "PEERS"]

_DESIGN, _PACKAGING = "tests/traps/test_design.py", "tests/test_packaging.py"
_NO_TRACE = "tests/test_laws.py::test_law_1_scoring_leaves_no_trace"
_FOREIGN = f"{_PACKAGING}::test_configs_are_found_by_someone_elses_app"

PEERS = (
    Trap(
        "P1",
        "InfoBatch: an epoch without end, since its sampler starts over for every batch.",
        "As 7.",
        ("tests/traps/test_data_flow.py::test_every_iteration_is_a_fresh_generator",),
        seen="its code, torch 2.13",
    ),
    Trap(
        "P2",
        "InfoBatch: ids joined to losses in one tensor.",
        "As 20.",
        ("tests/traps/test_ranks.py::test_ids_keep_their_digits_whatever_the_losses_are_kept_in",),
        seen="its code",
    ),
    Trap(
        "P3",
        "InfoBatch: seeds NumPy for everybody, patches every DataLoader of the process, recursion when copied.",
        "No global seed, no class patched, copies work.",
        (
            f"{_DESIGN}::test_the_global_generators_are_seeded_by_nobody",
            f"{_DESIGN}::test_no_class_of_torch_or_lightning_is_patched",
            "tests/traps/test_steps.py::test_copies_of_a_loader_are_made_amid_a_fit",
        ),
        seen="its code",
    ),
    Trap(
        "P4",
        "InfoBatch: the rescaling forgets that a share was rounded, so weights do not add up.",
        "Weights of a pass sum to the number of rows.",
        (
            "tests/samplers/test_info_batch.py::test_weights_of_a_pass_sum_to_the_number_of_rows",
            "tests/samplers/test_info_batch.py::test_a_share_is_not_lost_to_rounding",
        ),
        seen="its code",
    ),
    Trap(
        "P5",
        "BigDL-Nano: only list batches, a vector as loss, no autocast, never on where `max_epochs` is 1 or -1.",
        "As 22 and 34; schedules count steps or shares of the training, and say so where its length is unknown.",
        (
            "tests/traps/test_steps.py::test_rows_are_taken_from_a_batch_of_any_form_and_the_loaders_batch_stays",
            "tests/test_schedule.py::test_steps_need_no_length_and_fractions_do",
            "tests/test_bad_input.py::TestArguments::test_a_fraction_of_a_training_without_an_end",
        ),
        seen="its code",
    ),
    Trap(
        "P6",
        "Composer's selective backprop: scores in training mode, draws from NumPy's global generator.",
        "As 32; draws are a function of seed, step and rank.",
        (_NO_TRACE, "tests/callbacks/test_batch_selection.py::test_draws_are_a_function_of_the_seed_and_the_step"),
        seen="its code",
    ),
    Trap(
        "P7",
        "RHO-LOSS: appends to an array in every step, which copies it each time.",
        "Nothing does.",
        (f"{_DESIGN}::test_nothing_grows_by_being_copied_in_every_step",),
        seen="its code",
    ),
    Trap(
        "P8",
        "UDS: prints tensors and rewrites a file in every step; singular values of whole logits.",
        "No print; the norm comes from a Gram matrix.",
        (
            "tests/test_layers.py::test_what_the_package_may_not_hold",
            f"{_DESIGN}::test_no_singular_values_of_logits_are_taken",
            "tests/scores/test_nuclear_norm.py::test_agrees_with_singular_values_by_jacobi",
        ),
        seen="its code",
    ),
    Trap(
        "P9",
        "DivBS: holds whole gradients of the last layer, waits for the device at every pick.",
        "Inner products only, and no wait.",
        (
            "tests/selectors/test_divbs.py::test_inner_products_are_those_of_the_gradients",
            "tests/selectors/test_divbs.py::test_reads_nothing_back_to_the_host",
        ),
        seen="its code",
    ),
    Trap(
        "P10",
        "DataFlex: scores the whole dataset row by row, caches by step alone.",
        "Candidates are the batch, scored in one pass.",
        ("tests/traps/test_steps.py::test_candidates_are_scored_in_one_pass",),
        seen="its code",
    ),
    Trap(
        "P11",
        "CORDS: tests that assert True; pins that no longer resolve.",
        "Neither.",
        (
            f"{_DESIGN}::test_no_test_is_content_with_anything",
            f"{_DESIGN}::test_versions_of_what_is_required_have_no_upper_end",
        ),
        seen="its code",
    ),
    Trap(
        "P12",
        "verl, NeMo-RL: a filter that leaves nothing ends the run (verl#953, NeMo-RL#3154).",
        "Rounds are limited, and what happens then is declared.",
        (
            "tests/rollouts/test_grpo.py::test_a_policy_that_always_fails_ends_in_bounded_time",
            "tests/rollouts/test_refill.py::test_too_few_are_trained_on_with_a_word",
        ),
        seen="their code",
    ),
    Trap(
        "P13",
        "torchrl: a compiled part that does not load with a newer torch.",
        "Nothing is compiled: the wheel is Python and yaml.",
        (f"{_PACKAGING}::test_the_wheel_holds_the_package_the_configs_and_the_plugin",),
        seen="0.14.1, torch 2.13",
    ),
)

_HYDRA = "Hydra 1.3"

HYDRA = (
    Trap(
        "H1",
        "`hydra_plugins` with an `__init__.py` hides the plugins of others; yaml files are easily left out of a wheel.",
        "The built wheel is looked into.",
        (f"{_PACKAGING}::test_the_wheel_holds_the_package_the_configs_and_the_plugin",),
        seen=_HYDRA,
    ),
    Trap(
        "H2",
        "Config groups of a plugin clash with the application's (hydra#1880); a list cannot be appended to "
        "(hydra#1939).",
        "Groups have names of our own inside of `callbacks`, and recipes are entries of a dict.",
        (_FOREIGN, "tests/test_configs.py::test_everyone_else_sees_only_names_that_are_ours"),
        seen=_HYDRA,
    ),
    Trap(
        "H3",
        "Plugins may be off.",
        "Our command registers its configs itself. Other applications need the plugin, or our folder on their path.",
        ("tests/test_docs.py::test_commands_compose_and_configs_are_yaml",),
        seen=_HYDRA,
    ),
)

EVALUATION = (
    Trap(
        "51",
        '"No loss at 60 % of the rows", against the full run: uniform at 60 % with its own schedule is as good.',
        "Uniform at equal cost, with a schedule of that length, is in every table.",
        (
            "tests/app/compare/test_equal_cost.py::test_uniform_at_equal_cost_is_in_every_table",
            "tests/app/compare/test_equal_cost.py::test_length_and_evaluations",
        ),
        seen="own runs",
    ),
    Trap(
        "52",
        "A baseline that nobody tuned makes any method look fast.",
        "Benchmarks sweep the rate of the baseline first, and publish the sweep.",
        ("tests/test_benchmarks.py::test_a_fast_run_ends_with_a_verdict",),
        seen="own runs",
    ),
    Trap(
        "53",
        "Steps to a target, read from one noisy curve, say anything.",
        "Targets are crossed by the mean of three evaluations; several seeds, in pairs, with an interval.",
        (
            "tests/app/compare/test_summary.py::test_the_target_is_reached_where_the_mean_of_three_evaluations_crosses_it",
            "tests/app/compare/test_intervals.py::test_three_that_agree_in_sign_are_not_enough",
        ),
        seen="own runs",
    ),
    Trap(
        "54",
        "Fewer wrong labels among the rows kept, and yet a worse model.",
        "A verdict is on the model's metric alone; what was kept is shown beside it.",
        ("tests/app/compare/test_verdict.py::test_the_verdict_is_that_at_equal_cost",),
        seen="own runs",
    ),
)
