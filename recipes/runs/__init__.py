"""Read, write and archive run folders."""

from recipes.runs.folder import RunFolder as RunFolder
from recipes.runs.run import Run as Run
