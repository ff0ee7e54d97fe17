"""The names and arguments promised to users, each tried in a fresh interpreter."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import blocks

PROMISED = {
    "make_environment": ["task", "seed", "observation", "action_repeat"],
    "constrained": ["env", "cost", "episode_length", "action_repeat"],
    "check_environment": ["env"],
    "ContinueHead": ["feat_size"],
    "SequenceReplay": ["capacity"],
    "VectorEncoder": ["observation_size"],
    "ImageEncoder": [],
    "RSSM": ["embed_size", "action_size", "deter_size", "stoch_size", "hidden_size"],
    "EnsemblePosterior": ["template", "members", "family", "prior_scale"],
    "WorldModel": ["encoder", "rssm", "decoder", "reward_head", "cost_head"],
    "Actor": ["feat_size", "action_size"],
    "CategoricalActor": ["feat_size", "action_size"],
    "Critic": ["feat_size", "members"],
    "imagine": ["transition", "policy", "start", "horizon"],
    "stack_parameters": ["module", "copies"],
    "member_gradients": ["stacked", "values"],
    "with_gradient": ["value", "gradient", "parameters"],
    "of_policy": ["aggregate"],
    "per_state": ["aggregate"],
    "ConformalMargin": ["alpha", "gamma", "initial"],
    "ConformalShare": ["alpha", "gamma", "initial"],
    "FixedShare": ["value"],
    "lambda_returns": ["rewards", "values", "discount", "lambda_"],
    "discounted_budget": ["episode_budget", "episode_length", "discount", "action_repeat"],
    "worst_case": ["values", "dim"],
    "mean": ["values", "dim"],
    "quantile": ["values", "q", "dim"],
    "cvar": ["values", "alpha", "dim"],
    "log_barrier": ["objective", "slack", "eta"],
    "lbsgd_step_size": [
        "slack", "slope", "grad_norm", "eta", "objective_smoothness", "constraint_smoothness",
    ],
    "LBSGD": [
        "params", "eta", "objective_smoothness", "constraint_smoothness", "eta_decay", "eta_min",
        "direction",
    ],
    "AugmentedLagrangian": ["params"],
    "PIDLagrangian": ["params"],
    "LatentPolicy": ["normalizer", "encoder", "rssm", "actor", "low", "high", "observation_shape"],
    "save_policy": ["path", "policy", "task", "seed", "settings", "results"],
    "load_policy": ["path", "device"],
}  # fmt: skip


def run(code: str) -> str:
    """What a fresh interpreter prints; its error output where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(blocks.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_promised_name_is_listed() -> None:
    assert set(PROMISED) <= set(blocks.__all__)
    assert set(blocks.__all__) == set(dir(blocks))


def test_every_listed_name_can_be_imported_and_is_no_module() -> None:
    """One by one, in the order of `__all__`, which an import of all would hide."""
    pytest.importorskip("gymnasium")
    code = """
        import blocks, types
        for name in blocks.__all__:
            exec(f"from blocks import {name}")
            assert getattr(blocks, name) is globals()[name]
            assert callable(globals()[name]), name
            assert not isinstance(globals()[name], types.ModuleType), name
        print(len(blocks.__all__))
    """
    assert int(run(inspect.cleandoc(code))) >= len(PROMISED)


def test_a_star_import_gives_them_all() -> None:
    pytest.importorskip("gymnasium")
    code = "from blocks import *; import blocks; print(set(blocks.__all__) <= set(globals()))"
    assert run(code).strip() == "True"


def test_a_name_means_the_same_after_its_module_has_been_imported() -> None:
    code = "import blocks.returns; from blocks import lambda_returns as f; print(callable(f))"
    assert run(code).strip() == "True"


@pytest.mark.parametrize("name", PROMISED)
def test_promised_arguments_are_accepted_by_name(name: str) -> None:
    if name == "make_environment":
        pytest.importorskip("gymnasium")
    value = getattr(blocks, name)
    if inspect.ismodule(value):  # see the test above
        value = getattr(value, name)
    assert set(PROMISED[name]) <= set(inspect.signature(value).parameters)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = blocks.nonsense  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("source", ["blocks", "blocks.environments.safety_gymnasium"])
def test_environments_need_no_torch(source: str) -> None:
    pytest.importorskip("gymnasium")
    code = f"""
        import sys
        sys.modules["torch"] = sys.modules["pyro"] = None
        from {source} import make_environment
        print(make_environment.__name__)
    """
    assert run(inspect.cleandoc(code)).strip() == "make_environment"


def test_importing_the_package_imports_no_block() -> None:
    code = "import sys, blocks; print([m for m in sys.modules if m.startswith('blocks.')])"
    assert run(code).strip() == "[]"


def test_a_block_imports_no_environment() -> None:
    """`blocks` without the environments' extra is a whole package but for two names."""
    code = """
        import sys
        sys.modules["gymnasium"] = sys.modules["safety_gymnasium"] = None
        import blocks
        for name in blocks.__all__:
            if name not in ("make_environment", "ParallelEnvironments", "constrained"):
                getattr(blocks, name)
        print("fine")
    """
    assert run(inspect.cleandoc(code)).strip() == "fine"
