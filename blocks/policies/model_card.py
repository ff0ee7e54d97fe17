"""Model card of a saved policy, in Markdown."""

from collections.abc import Mapping
from typing import Any

CARD = """---
library_name: cerl-blocks
tags: [reinforcement-learning, safe-reinforcement-learning, model-based]
---

# Policy for {task}

A policy trained with cerl-blocks {version}: it filters {observation} with a recurrent
state-space model and acts on the latent state. Acting is deterministic: it takes the mode of the
latent and of the action.

```python
from blocks import load_policy

policy = load_policy("path/to/this/folder")
policy.reset()  # at the start of each episode
action = policy.act(observation)  # {action_size} numbers in the environment's bounds
```

Loading reads `policy.json` and `policy.safetensors` and executes nothing from them.

## Training

{training}

## Results

{results}

The policy was trained to keep an expected cost within a budget on this task. That is no guarantee
on another task, at another action repeat or on a real system.
"""


def model_card(content: Mapping[str, Any]) -> str:
    """Write the card from the content of ``policy.json``."""
    shape, dtype = content["observation"]["shape"], content["observation"]["dtype"]
    training = {"task": content["task"] or "unknown", "seed": content["seed"]}
    return CARD.format(
        task=content["task"] or "an unnamed task",
        version=content["blocks_version"],
        observation=f"observations of shape {'x'.join(map(str, shape))} ({dtype})",
        action_size=len(content["action"]["low"]),
        training=_table("setting", training | content["settings"]),
        results=_table("figure", content["results"]) if content["results"] else "None recorded.",
    )


def _table(name: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | value |", "|---|---|"]
    for key, value in rows.items():
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        lines.append(f"| {key} | {shown} |".replace("\n", " "))
    return "\n".join(lines)
