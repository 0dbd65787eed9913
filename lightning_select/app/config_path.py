"""Where the configs lie, and how Hydra finds them without an installed plugin.

There are two folders, because Hydra shows a plugin's folder to every app on the machine. ``configs`` is the one that
everyone sees: the groups ``callbacks/selection`` and ``sampler``, after whatever an app has there itself. Our
application's own config and its groups (``model``, ``data``, ...), whose names many apps use, lie in
``configs/lightning_select`` and are seen by this application alone.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["PRIMARY", "app_folder", "register_configs", "shared_folder"]

PRIMARY = "app"
"""Name of the primary config."""


def shared_folder() -> Path:
    """The folder that everyone sees: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def app_folder() -> Path:
    """The folder of this application's own configs."""
    return shared_folder() / "lightning_select"


def register_configs() -> None:
    """Have Hydra look into the shared folder, also where the package is not installed and so has no plugin."""
    Plugins.instance().register(_SharedConfigs)


class _SharedConfigs(SearchPathPlugin):
    """Does what the installed plugin does, unless that is there."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the shared folder."""
        if all(element.provider != "lightning_select" for element in search_path.get_path()):
            search_path.append(provider="lightning_select", path=f"file://{shared_folder()}")
