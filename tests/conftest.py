"""What every test shares: one torch thread, and hypothesis without a clock.

`HYPOTHESIS_PROFILE=thorough` looks harder; where `CI` is set the examples are the same every time.
"""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

_calm = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_calm)
settings.register_profile("ci", max_examples=50, derandomize=True, **_calm)
settings.register_profile("thorough", max_examples=1000, **_calm)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
