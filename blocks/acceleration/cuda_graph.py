"""Updates as CUDA graphs: thousands of small operations, started on the GPU all at once.

A recurrent model at the sizes of this field is a long chain of small operations, and a GPU takes
less time for one of them than Python for starting it. ``Graphed`` records what a function starts
and has the GPU repeat it. What it records may hold a whole update: forward pass, gradients, and a
``capturable`` optimiser's step.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.acceleration.threads import one_after_another

EAGER_CALLS = 3
"""Calls before the recording, in which libraries set themselves up (torch's advice for graphs)."""


class Graphed:
    """``function``, on a GPU recorded once and then replayed; on the CPU the function itself.

    The first calls run as they are, each with its own inputs, so that nothing is done twice: with
    the same generator a graphed run draws the same noise, and makes the same updates but for the
    roundings of other kernels.

    Args:
        function: of tensors of fixed shapes, to a tuple of tensors. What it reads besides its
            inputs (weights, moments) must be the same tensors at each call, changed in place. It
            does not wait for the GPU: no ``.item()``, no branch on a value, no noise drawn
            on the CPU. What it holds as plain numbers stays what it was when it was recorded.
        generator: of the noise that it draws, on the device of the inputs; None if it draws none.

    Example:
        >>> double = Graphed(lambda x: (2 * x,))
        >>> double(torch.ones(2))
        (tensor([2., 2.]),)
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        generator: torch.Generator | None = None,
    ) -> None:
        self._function, self._generator = function, generator
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns, as tensors of their own that no gradient goes through.

        Raises:
            ValueError: once recorded: an input has another shape.
        """
        if inputs[0].device.type != "cuda":
            return _detached(self._function(*inputs))
        if self._graph is None:
            if self._calls < EAGER_CALLS:
                self._calls += 1
                return self._on_side_stream(inputs)
            self._graph = self._record(inputs)
        for position, (static, given) in enumerate(zip(self._inputs, inputs, strict=True)):
            if static.shape != given.shape:
                raise ValueError(
                    f"input {position}: got shape {list(given.shape)}, but {list(static.shape)} "
                    "was recorded: take another Graphed for other shapes"
                )
            static.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _on_side_stream(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As torch has it: gradients remember the stream on which they came about."""
        current = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), one_after_another(), warnings.catch_warnings():
            # Optimisers say that they expected to be recorded. They will be.
            warnings.filterwarnings("ignore", ".*capturable=True.*")
            outputs = _detached(self._function(*inputs))
        current.wait_stream(self._stream)
        return outputs

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        self._inputs = [given.detach().clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream), one_after_another():
            self._outputs = _detached(self._function(*self._inputs))
        return graph


def _detached(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(output.detach() for output in outputs)


class _WithGradient(torch.autograd.Function):
    """Of a value, a flat gradient and the parameters: the value, with that gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.shapes = [parameter.shape for parameter in parameters]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        parts = (upstream[0] * gradient).split([shape.numel() for shape in ctx.shapes])
        shaped = [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]
        return None, None, *shaped


def with_gradient(
    value: Float[Tensor, ""],
    gradient: Float[Tensor, " parameter"],
    parameters: Sequence[nn.Parameter],
) -> Float[Tensor, ""]:
    """A scalar whose gradient is known already, for an optimiser that asks autograd for it.

    Args:
        value: the scalar.
        gradient: its gradient by all parameters, flat.
        parameters: in the order of the gradient.

    Returns:
        The same value, differentiable once.

    Raises:
        ValueError: the gradient is not as long as the parameters together.

    Example:
        >>> x = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> known = with_gradient(torch.tensor(5.0), torch.tensor([3.0, 4.0]), [x])
        >>> known.backward()
        >>> x.grad
        tensor([3., 4.])
    """
    size = sum(parameter.numel() for parameter in parameters)
    if gradient.shape != (size,):
        raise ValueError(
            f"gradient: got shape {list(gradient.shape)}, but the parameters have {size} entries"
        )
    return _WithGradient.apply(value.detach(), gradient, *parameters)  # pyright: ignore[reportReturnType]
