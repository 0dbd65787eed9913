"""The Hydra application behind the command ``lightning-select``."""

from __future__ import annotations

from lightning_select.app.command import main

__all__ = ["main"]
