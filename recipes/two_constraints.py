"""CERL with two costs, each with its own budget: hazards and vases of SafetyPointGoal2.

    python recipes/two_constraints.py --budgets hazards=25 vases_contact=50

Each cost has its heads, critic, margin and place in the log barrier; a policy is feasible if every
member keeps every budget.
"""

from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run(
        "two_constraints",
        CERL(),
        task="SafetyPointGoal2-v0",
        budgets=("hazards=25", "vases_contact=25"),
    )
