"""Settings of `time_to_accuracy`, and how they were found (`tta_tuning`; ``time_to_accuracy.py --tune`` again).

Mean accuracy in percent on the validation rows of the tuning seeds 100 and 101, at the end of a run with the compute of
uniform by its largest learning rate, and at the best rate with .7 and .5 of the compute, as far as that was tried. What
draws as uniform does has uniform's rate.

    MNIST, redundant and noisy     0.003  0.006  0.012    .7    .5
    uniform                         88.3   88.3   87.4  87.0
    rho_loss                        79.5   81.1   81.2
    rho_loss, spare rows            89.2   89.7   89.0  88.7  87.3
    dynamic_loss                    88.1   86.9   86.1
    selective_backprop              87.6   87.7   86.2
    balanced_difficulty             86.1   88.2   87.5
    uds                             74.8   72.1   68.7
    info_batch (sampler)            88.4   88.5   87.7  87.4
    balanced_difficulty (sampler)   87.7   87.8   86.4
    rank_online (sampler)           87.8   88.7   87.1  87.4
    RS2 (sampler)                   88.1
    uniform, spare rows too         91.7                91.1  89.8

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

    digits, redundant and noisy    0.003  0.006  0.012    .7    .5
    uniform                         81.6   85.9   87.1  83.9
    rho_loss                        42.7   63.9   67.7
    rho_loss, spare rows            58.3   59.3   60.3
    dynamic_loss                    82.6   86.6   85.6
    selective_backprop              80.9   85.6   86.9
    balanced_difficulty             64.3   66.4   76.3
    uds                             43.1   48.0   48.3
    info_batch (sampler)            84.6   89.4   90.0  87.6  81.0
    balanced_difficulty (sampler)   82.0   87.0   89.6  85.7
    rank_online (sampler)           83.7   87.4   90.6  84.3
    RS2 (sampler)                                 88.9  84.3
    uniform, spare rows too                       89.7  87.4  82.1

    digits                         0.001  0.003  0.01    .7  .5
    uniform                         93.5   97.2  98.0  96.5
    rho_loss                        59.8   80.5  88.0
    dynamic_loss                    94.5   97.5  97.8
    selective_backprop              91.2   96.0  96.5
    balanced_difficulty             57.0   68.0  81.2
    uds                             65.0   75.5  76.5
    info_batch (sampler)            94.8   96.8  96.8
    balanced_difficulty (sampler)   92.8   96.2  95.5
    rank_online (sampler)           94.0   96.8  97.5
    RS2 (sampler)                                97.0
"""

from __future__ import annotations

from collections.abc import Mapping

from tta_tuning import Setting

__all__ = ["SETTINGS", "WALL"]

SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "MNIST, redundant and noisy": {
        "uniform": Setting(0.003),
        "rho_loss": Setting(0.012),
        "rho_loss, spare rows": Setting(0.006, 0.7),
        "dynamic_loss": Setting(0.003),
        "selective_backprop": Setting(0.006),
        "balanced_difficulty": Setting(0.006),
        "uds": Setting(0.003),
        "info_batch (sampler)": Setting(0.006),
        "balanced_difficulty (sampler)": Setting(0.006),
        "rank_online (sampler)": Setting(0.006),
        "RS2 (sampler)": Setting(0.003),
        "uniform, spare rows too": Setting(0.003, 0.5),
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
    "digits, redundant and noisy": {
        "uniform": Setting(0.012),
        "rho_loss": Setting(0.012),
        "rho_loss, spare rows": Setting(0.012),
        "dynamic_loss": Setting(0.006),
        "selective_backprop": Setting(0.012),
        "balanced_difficulty": Setting(0.012),
        "uds": Setting(0.012),
        "info_batch (sampler)": Setting(0.012, 0.7),
        "balanced_difficulty (sampler)": Setting(0.012),
        "rank_online (sampler)": Setting(0.012),
        "RS2 (sampler)": Setting(0.012),
        "uniform, spare rows too": Setting(0.012, 0.7),
    },
    "digits": {
        "uniform": Setting(0.01),
        "rho_loss": Setting(0.01),
        "dynamic_loss": Setting(0.01),
        "selective_backprop": Setting(0.01),
        "balanced_difficulty": Setting(0.01),
        "uds": Setting(0.01),
        "info_batch (sampler)": Setting(0.003),
        "balanced_difficulty (sampler)": Setting(0.003),
        "rank_online (sampler)": Setting(0.01),
        "RS2 (sampler)": Setting(0.01),
    },
}

WALL: Mapping[str, str] = {
    "CIFAR-10N, worst labels": "dynamic_loss",
    "Banking77": "info_batch (sampler)",
    "Adult": "dynamic_loss",
    "digits": "dynamic_loss",
}
"""Of the tasks whose labels nobody made wrong, the method that did best on the tuning seeds.

But for RS2, which draws as uniform does.
"""
