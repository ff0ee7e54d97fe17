"""Parts that recipes share: configuration, components, the latent agent."""

from recipes.agents.components import Components as Components
from recipes.agents.config import Config as Config
from recipes.agents.latent_agent import LatentAgent as LatentAgent
from recipes.agents.protocols import Agent as Agent
from recipes.agents.protocols import Auditable as Auditable
from recipes.agents.protocols import Guard as Guard
from recipes.agents.protocols import Metrics as Metrics
from recipes.agents.protocols import Policy as Policy
from recipes.agents.protocols import zero_action as zero_action
