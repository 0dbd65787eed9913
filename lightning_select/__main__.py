"""``python -m lightning_select``: the command, where the folder of scripts is not on the path."""

from __future__ import annotations

from lightning_select.app import main

if __name__ == "__main__":
    main()
