"""Budgets of a run's costs, by name or in order."""

from blocks import Environment
from blocks.environments.costs import CostSource, cost_names_of
from recipes.agents.config import Config


def cost_source(config: Config) -> CostSource:
    """Return where the task's costs come from: what ``make_environment`` takes.

    The cost of the budget ``hazards`` is ``info["cost_hazards"]``.
    """
    named = _named(config.safety.budgets)
    if not named:
        return config.cost
    return {name: name if name.startswith("cost") else f"cost_{name}" for name in named}


def episode_budgets(config: Config, environment: Environment) -> tuple[float, ...]:
    """Return the budget of each of the environment's costs, in their order.

    Raises:
        ValueError: the budgets are not those of the environment's costs.
    """
    names = cost_names_of(environment)
    if not config.safety.budgets:
        return (float(config.safety.episode_budget),) * len(names)
    named = _named(config.safety.budgets)
    if named:
        if named.keys() != set(names):
            raise ValueError(
                f"budgets: got {', '.join(named)}; allowed one for each of the task's costs: "
                f"{', '.join(names)}."
            )
        return tuple(named[name] for name in names)
    if len(config.safety.budgets) != len(names):
        raise ValueError(
            f"budgets: got {len(config.safety.budgets)} numbers; allowed {len(names)}, one for "
            f"each of the task's costs: {', '.join(names)}."
        )
    return tuple(map(float, config.safety.budgets))


def _named(budgets: tuple[str, ...]) -> dict[str, float]:
    """Read ``name=number``; empty if the budgets are numbers alone."""
    pairs = [budget.rpartition("=") for budget in budgets]
    return {name: float(number) for name, _, number in pairs if name}
