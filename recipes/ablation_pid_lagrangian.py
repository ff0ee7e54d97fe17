"""CERL with a PID-controlled Lagrange multiplier in place of log barrier and LBSGD.

Stooke, Achiam and Abbeel 2020. The gains suit an objective and costs of order one, as here (returns
in units of their range, costs in budgets), and were not tuned.
"""

from dataclasses import dataclass

from blocks import Actor, Environment, PIDLagrangian
from recipes import agents
from recipes.cerl_full import CERL
from recipes.training import run


@dataclass(frozen=True, kw_only=True, init=False)
class Config(agents.Config):
    """CERL's settings, and the controller's gains."""

    proportional_gain: float = 1.0
    """K_P; all gains are in units of objective / cost return squared."""
    integral_gain: float = 0.02
    """K_I, per update."""
    derivative_gain: float = 0.1
    """K_D."""


def agent(config: Config, environment: Environment) -> agents.Agent:

    def pid_lagrangian(actor: Actor, _: agents.Config) -> PIDLagrangian:
        return PIDLagrangian(
            actor.parameters(),
            learning_rate=config.policy.actor_learning_rate,
            proportional_gain=config.proportional_gain,
            integral_gain=config.integral_gain,
            derivative_gain=config.derivative_gain,
        )

    return CERL(optimizer=pid_lagrangian)(config, environment)


if __name__ == "__main__":
    run("ablation_pid_lagrangian", agent, Config)
