"""Settings of `time_to_accuracy`, and how they were found (`tta_tuning`; ``time_to_accuracy.py --tune`` again).

Mean accuracy in percent on the validation rows of the tuning seeds 100 and 101, at the end of a run with the compute of
uniform by its largest learning rate, and at the best rate with .7 and .5 of the compute, as far as that was tried. What
draws as uniform does has uniform's rate.

    MNIST, redundant and noisy     0.003  0.006  0.012    .7    .5
    uniform                         85.5   85.8   84.0  85.3
    rho_loss                        75.2   77.1   76.8
    rho_loss, spare rows            87.5   87.8   87.0  86.4  84.8
    dynamic_loss                    84.7   84.7   81.7
    selective_backprop              84.4   85.0   83.3
    balanced_difficulty             84.5   86.5   85.0  84.2
    uds                             73.2   70.5   73.5
    info_batch (sampler)            85.4   86.4   84.7  84.8
    balanced_difficulty (sampler)   85.9   86.3   83.8  84.4
    rank_online (sampler)           85.7   86.0   84.4  84.6
    RS2 (sampler)                          85.9         85.1
    uniform, spare rows too                91.2         90.4  89.6

    CIFAR-10N, worst labels        0.003  0.006  0.012    .7  .5
    uniform                         36.1   38.2   37.7  35.8
    rho_loss                        15.0   18.3   18.1
    dynamic_loss                    36.8   38.8   33.1  35.9
    selective_backprop              32.2   32.1   25.7
    balanced_difficulty             21.5   24.4   24.4
    uds                             29.4   31.4   30.9
    info_batch (sampler)            36.5   38.0   35.2
    balanced_difficulty (sampler)   37.4   38.5   36.2  35.7
    rank_online (sampler)           36.8   38.5   36.9  35.7
    RS2 (sampler)                          39.4         36.8

    Banking77                      0.006  0.012  0.024    .7  .5
    uniform                         83.7   85.8   85.6  84.1
    rho_loss                        32.4   49.8   66.6
    dynamic_loss                    84.1   85.8   85.3  84.1
    selective_backprop              80.0   84.1   85.1
    balanced_difficulty             48.2   52.3   55.4
    uds                             63.5   70.6   74.7
    info_batch (sampler)            84.5   86.5   85.9  84.7
    balanced_difficulty (sampler)   82.9   86.3   85.3  83.5
    rank_online (sampler)           84.3   85.8   85.7  84.1
    RS2 (sampler)                          85.7

    Adult                          0.001  0.003  0.01    .7  .5
    uniform                         85.2   85.1  85.1  85.0
    rho_loss                        76.1   83.9  83.1
    dynamic_loss                    85.3   85.2  85.1  85.1
    selective_backprop              85.2   85.2  85.1
    balanced_difficulty             85.2   85.2  85.0
    uds                             84.7   85.0  85.0
    info_batch (sampler)            85.2   85.2  85.1  85.0
    balanced_difficulty (sampler)   85.0   85.2  85.1
    rank_online (sampler)           85.2   85.1  85.1
    RS2 (sampler)                   85.2
"""

from __future__ import annotations

from collections.abc import Mapping

from tta_tuning import Setting

__all__ = ["SETTINGS", "WALL"]

SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "MNIST, redundant and noisy": {
        "uniform": Setting(0.006),
        "rho_loss": Setting(0.006),
        "rho_loss, spare rows": Setting(0.006, 0.7),
        "dynamic_loss": Setting(0.006),
        "selective_backprop": Setting(0.006),
        "balanced_difficulty": Setting(0.006),
        "uds": Setting(0.012),
        "info_batch (sampler)": Setting(0.006),
        "balanced_difficulty (sampler)": Setting(0.006),
        "rank_online (sampler)": Setting(0.006),
        "RS2 (sampler)": Setting(0.006),
        "uniform, spare rows too": Setting(0.006, 0.5),
    },
    "CIFAR-10N, worst labels": {
        "uniform": Setting(0.006),
        "rho_loss": Setting(0.006),
        "dynamic_loss": Setting(0.006),
        "selective_backprop": Setting(0.003),
        "balanced_difficulty": Setting(0.006),
        "uds": Setting(0.006),
        "info_batch (sampler)": Setting(0.006),
        "balanced_difficulty (sampler)": Setting(0.006),
        "rank_online (sampler)": Setting(0.006),
        "RS2 (sampler)": Setting(0.006),
    },
    "Banking77": {
        "uniform": Setting(0.012),
        "rho_loss": Setting(0.024),
        "dynamic_loss": Setting(0.012),
        "selective_backprop": Setting(0.024),
        "balanced_difficulty": Setting(0.024),
        "uds": Setting(0.024),
        "info_batch (sampler)": Setting(0.012),
        "balanced_difficulty (sampler)": Setting(0.012),
        "rank_online (sampler)": Setting(0.012),
        "RS2 (sampler)": Setting(0.012),
    },
    "Adult": {
        "uniform": Setting(0.001),
        "rho_loss": Setting(0.003),
        "dynamic_loss": Setting(0.001),
        "selective_backprop": Setting(0.001),
        "balanced_difficulty": Setting(0.001),
        "uds": Setting(0.01),
        "info_batch (sampler)": Setting(0.001),
        "balanced_difficulty (sampler)": Setting(0.003),
        "rank_online (sampler)": Setting(0.001),
        "RS2 (sampler)": Setting(0.001),
    },
}

WALL: Mapping[str, str] = {
    "CIFAR-10N, worst labels": "dynamic_loss",
    "Banking77": "info_batch (sampler)",
    "Adult": "dynamic_loss",
}
"""Of the tasks whose labels nobody made wrong, the method that did best on the tuning seeds, at the least cost."""
