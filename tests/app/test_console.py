from __future__ import annotations

from typing import Any

from lightning_select.app.console import complain, harmless, say
from tests.app.conftest import read_csv


def test_control_characters_are_spelled_out(capsys: Any) -> None:
    assert harmless("a\x1b[2J\rb\x07\x7f\x9bc\td\né ± 中") == "a\\x1b[2J\\x0db\\x07\\x7f\\x9bc\td\né ± 中"
    say("\x1b[1A")
    complain("\x1b[1A")
    assert capsys.readouterr() == ("\\x1b[1A\n", "lightning-select: \\x1b[1A\n")


class Evil:
    """A weighting that fails with a message for the terminal."""

    def __call__(self, losses: Any) -> Any:
        raise RuntimeError("gone \x1b[2J\x1b[1;1H here")


def test_an_error_does_not_clear_the_terminal(launch_tiny: Any, capsys: Any) -> None:
    kind, weighting = "lightning_select.LossReweighting", "tests.app.test_console.Evil"
    overrides = f"'+callbacks.mine._target_={kind}','+callbacks.mine.weighting._target_={weighting}'"
    methods = f"methods=[uniform,{{mine:['callbacks/selection=none',{overrides}]}}]"
    folder = launch_tiny("task=compare", methods, "seeds=1", "compare.equal_cost=false")
    told = capsys.readouterr().out
    assert r"mine failed in 1 run: RuntimeError: gone \x1b[2J\x1b[1;1H here" in told
    assert "\x1b" not in told
    assert "gone" in read_csv(folder / "runs.csv")[1]["error"]
