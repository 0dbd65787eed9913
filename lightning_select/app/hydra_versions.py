"""What differs between Hydra 1.3 and 1.4, in one place.

1.4 wants to hear which targets ``instantiate`` may run and no longer wants a ``version_base``; 1.3 refuses the one and
warns without the other. In this application the user's own command line and files choose the classes
(``model._target_=my.Module``), so nothing is ruled out.
"""

from __future__ import annotations

from typing import Any

import hydra.utils

__all__ = ["BASE", "TRUST"]

_everything = getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)

BASE: dict[str, Any] = {"version_base": "1.3"} if _everything is None else {}
"""Arguments of ``hydra.main`` and ``hydra.initialize``."""

TRUST: dict[str, Any] = {} if _everything is None else {"_execution_whitelist_": _everything}
"""Arguments of ``hydra.utils.instantiate``."""
