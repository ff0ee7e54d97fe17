"""Train an agent: ``train`` from Python, ``run`` from a command line."""

from recipes.training.command_line import run as run
from recipes.training.loop import train as train
