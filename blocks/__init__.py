"""Composable blocks for safe model-based reinforcement learning, in the order data flows.

Names load on first use, so importing one block does not import what the others need:
``from blocks import make_environment`` works where torch is not installed. ``__init__.pyi`` lists
every public name with its module.
"""

from typing import Any, cast

import lazy_loader  # pyright: ignore[reportMissingTypeStubs]  # it ships no types

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
