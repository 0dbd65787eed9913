"""Makes our configs visible in anyone's Hydra app, so that ``+callbacks/selection=uds`` works there.

A wheel installs this file as ``hydra_plugins/lightning_select_plugin.py``, which Hydra 1.3 finds by its place and
Hydra 1.4 by the entry point ``hydra.plugins``. Hydra imports it for every app on the machine, whether that app selects
data or not; so it imports neither torch nor the package, only looks where the package lies.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["LightningSelectSearchPathPlugin"]


class LightningSelectSearchPathPlugin(SearchPathPlugin):
    """Appends our folder of configs: an app's own file of the same group and name comes first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder, wherever this installation has it."""
        spec = find_spec("lightning_select")
        if spec is None or spec.origin is None:
            return  # uninstalled by hand, with the plugin left behind
        package = Path(spec.origin).parent
        installed = package / "configs"
        folder = installed if installed.is_dir() else package.parent / "configs"  # the latter in a checkout
        search_path.append(provider="lightning_select", path=f"file://{folder}")
