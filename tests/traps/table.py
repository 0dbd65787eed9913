"""All traps, with the tests that hold them."""

from __future__ import annotations

from tests.traps.data_flow import DATA_FLOW
from tests.traps.peers import EVALUATION, HYDRA, PEERS
from tests.traps.ranks import RANKS
from tests.traps.state import STATE
from tests.traps.steps import HOOKS, NUMERICS
from tests.traps.trap import Trap

__all__ = ["SECTIONS", "TRAPS"]

SECTIONS: dict[str, tuple[Trap, ...]] = {
    "Data and the length of an epoch": DATA_FLOW,
    "Several ranks": RANKS,
    "Batches, hooks and logging": HOOKS,
    "Numerics and compilers": NUMERICS,
    "Checkpoints and the rest": STATE,
    "Hydra": HYDRA,
    "Defects of others": PEERS,
    "Evaluation": EVALUATION,
}
TRAPS: tuple[Trap, ...] = tuple(trap for traps in SECTIONS.values() for trap in traps)
