"""Run folders: configuration, metrics, checkpoints, provenance, archives."""

from recipes.runs.folder import RunFolder as RunFolder
from recipes.runs.run import Run as Run
