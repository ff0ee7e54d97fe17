"""Composable blocks for safe model-based reinforcement learning, in the order data flows.

Names load on first use, so that one block can be imported without what the others need:
``from blocks import make_environment`` works where torch is not installed. ``__init__.pyi`` lists
every public name with its module.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
