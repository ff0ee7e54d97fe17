"""Times RSSM filtering, forward and backward, against TorchRL and its matrix products alone.

    python benchmarks/rssm_observe.py
    python benchmarks/rssm_observe.py --compiled --sweep

TorchRL (``pip install -e '.[bench]'``) is left out where it is not installed.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from measure import interleave, markdown, ratios, spread, write
from torch import Tensor

from blocks import RSSM
from blocks.latents import Gaussian

OURS, FLOOR = "RSSM.observe", "its products alone"


class Sizes(NamedTuple):
    """Sizes of sequences and model; the defaults are those of TorchRL's DreamerV1."""

    batch: int = 16
    time: int = 50
    deter: int = 200
    hidden: int = 200
    stoch: int = 30
    embed: int = 1024
    action: int = 6

    def __str__(self) -> str:
        return f"{self.batch} x {self.time}, deter {self.deter}"


SMOKE = Sizes(2, 4, 8, 8, 4, 16, 2)
SWEEP = (
    Sizes(time=16),
    Sizes(),
    Sizes(batch=4),
    Sizes(batch=64),
    Sizes(deter=64, hidden=64),
    Sizes(deter=512, hidden=512),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 15
    """Rounds; each runs every contestant once."""
    torch_threads: int = 1
    """Torch's threads within an operation."""
    compiled: bool = False
    """Time TorchRL's compiled step, too; compilation takes a minute and needs a C++ compiler."""
    sweep: bool = False
    """Compare several sizes."""
    smoke: bool = False
    """Use tiny sizes and one round; checks that everything works."""
    out: Path | None = None
    """File of the results; runs/benchmarks/rssm_observe[_sweep].json by default."""

    def destination(self) -> Path:
        name = "rssm_observe_sweep" if self.sweep else "rssm_observe"
        return self.out or Path(f"runs/benchmarks/{name}.json")


class Data(NamedTuple):
    """A batch of sequences ``[batch, time, ...]``; embeds require gradients, as in training."""

    embeds: Tensor
    actions: Tensor
    is_first: Tensor


def random_data(sizes: Sizes) -> Data:
    """Make random sequences that begin with an episode."""
    embeds, actions = (
        torch.randn(sizes.batch, sizes.time, width) for width in (sizes.embed, sizes.action)
    )
    is_first = torch.zeros(sizes.batch, sizes.time, dtype=torch.bool)
    is_first[:, 0] = True
    return Data(embeds.requires_grad_(), actions, is_first)


def ours(sizes: Sizes, data: Data) -> Callable[[], None]:
    """Build our run: filter, then backpropagate from the sum of all outputs."""
    rssm = RSSM(
        embed_size=sizes.embed,
        action_size=sizes.action,
        deter_size=sizes.deter,
        stoch_size=sizes.stoch,
        hidden_size=sizes.hidden,
    )

    def run() -> None:
        _clear(rssm, data)
        out = rssm.observe(*data)
        assert isinstance(out.prior, Gaussian)
        assert isinstance(out.posterior, Gaussian)
        _backward(*out.state, *out.prior, *out.posterior)

    return run


def torchrl_rollout(sizes: Sizes, data: Data, *, compiled: bool) -> Callable[[], None]:
    """Build the run of TorchRL's ``RSSMRollout`` on the same data; it ignores ``is_first``."""
    from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
    from tensordict.nn import TensorDictModule  # pyright: ignore[reportMissingImports]
    from torchrl.data import Unbounded  # pyright: ignore[reportMissingImports]
    from torchrl.modules import RSSMPosterior, RSSMPrior, RSSMRollout  # pyright: ignore[reportMissingImports]

    prior = RSSMPrior(
        Unbounded((sizes.action,)), sizes.hidden, sizes.deter, sizes.stoch, action_dim=sizes.action
    )
    posterior = RSSMPosterior(
        sizes.hidden, sizes.stoch, rnn_hidden_dim=sizes.deter, obs_embed_dim=sizes.embed
    )
    statistics = ("prior_mean", "prior_std", "posterior_mean", "posterior_std")
    rollout = RSSMRollout(
        TensorDictModule(
            prior,
            in_keys=["state", "belief", "action"],
            out_keys=[("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
        ),
        TensorDictModule(
            posterior,
            in_keys=[("next", "belief"), ("next", "encoded_latents")],
            out_keys=[("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
        ),
        compile_step=compiled,
    )
    shape = (sizes.batch, sizes.time)
    state, belief = torch.zeros(*shape, sizes.stoch), torch.zeros(*shape, sizes.deter)

    def run() -> None:
        _clear(rollout, data)
        inputs = {"state": state, "belief": belief, "action": data.actions}
        out = rollout(TensorDict(inputs | {"next": {"encoded_latents": data.embeds}}, shape))
        _backward(*(out["next", name] for name in ("state", "belief", *statistics)))

    return run


def products_alone(sizes: Sizes) -> Callable[[], None]:
    """Build a run of only the matrix products of filtering and its gradients.

    The recurrent layers run step by step. All other products, including those of the weights'
    gradients, run once for the whole sequence. No implementation of these layers needs fewer.
    """
    s = sizes
    recurrent = (
        (s.stoch, s.hidden),
        (s.hidden, 3 * s.deter),
        (s.deter, 3 * s.deter),
        (s.deter, s.hidden),
        (s.hidden, 2 * s.stoch),
    )
    ahead = ((s.embed, s.hidden), (s.deter, s.hidden), (s.hidden, 2 * s.stoch))
    loop, once = ([_operands(s, *shape) for shape in layers] for layers in (recurrent, ahead))
    actions, action_weight, action_gradient = _operands(s, s.action, s.hidden)

    def run() -> None:
        for t in range(s.time):
            for x, weight, _ in loop:
                torch.mm(x[t], weight)
        for t in range(s.time):
            for _, weight, gradient in loop:
                torch.mm(gradient[t], weight.T)
        for x, weight, gradient in once:
            torch.mm(x.flatten(0, 1), weight)
            torch.mm(gradient.flatten(0, 1), weight.T)
        torch.mm(actions.flatten(0, 1), action_weight)
        for x, _, gradient in (*loop, *once, (actions, action_weight, action_gradient)):
            torch.mm(x.flatten(0, 1).T, gradient.flatten(0, 1))

    return run


def _operands(sizes: Sizes, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make inputs, weight and output gradients of one layer, ``[time, batch, ...]``."""
    x, gradient = (torch.randn(sizes.time, sizes.batch, width) for width in (rows, columns))
    return x, torch.randn(rows, columns), gradient


def _clear(module: torch.nn.Module, data: Data) -> None:
    module.zero_grad()
    data.embeds.grad = None


def _backward(*outputs: Tensor) -> None:
    torch.stack([x.sum() for x in outputs]).sum().backward()


def compare(sizes: Sizes, options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare contestants at one size; return table rows and seconds by round."""
    torch.manual_seed(0)
    data = random_data(sizes)
    runs = {OURS: ours(sizes, data), FLOOR: products_alone(sizes)}
    if find_spec("torchrl"):
        runs["TorchRL RSSMRollout"] = torchrl_rollout(sizes, data, compiled=False)
        if options.compiled:
            runs["TorchRL RSSMRollout, compiled step"] = torchrl_rollout(sizes, data, compiled=True)
    seconds = interleave(runs, options.rounds)
    rows = [
        {
            "sizes": sizes,
            "what": name,
            "time in ms": f"{1000 * spread(times).median:.1f}",
            "in units of RSSM.observe": ratios(times, seconds[OURS]),
            "in units of the products": ratios(times, seconds[FLOOR]),
        }
        for name, times in seconds.items()
    ]
    return rows, {"sizes": sizes._asdict(), "seconds": seconds}


def main(options: Options) -> None:
    torch.set_num_threads(options.torch_threads)
    chosen = SWEEP if options.sweep else (Sizes(),)
    if options.smoke:
        chosen, options = (SMOKE,), dataclasses.replace(options, rounds=1)
    rows, results = [], []
    for sizes in chosen:
        table, result = compare(sizes, options)
        rows += table
        results.append(result)
    print(markdown(rows))
    if not find_spec("torchrl"):
        print("\nTorchRL is not installed: pip install -e '.[bench]'")
    write(options.destination(), "rssm_observe", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
