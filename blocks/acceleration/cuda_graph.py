"""Updates as CUDA graphs: one launch for thousands of small operations.

A recurrent model of this size is a long chain of small operations. Python takes longer to launch
each of them than the GPU to run it. ``Graphed`` records a function's GPU operations and replays
them. A graph may hold a whole update: forward pass, gradients, and the step of a ``capturable``
optimiser.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.acceleration.threads import one_after_another

EAGER_CALLS = 3
"""Warm-up calls before the recording; libraries initialise in them, as torch's guide asks."""


class Graphed:
    """Records ``function`` once on a GPU and then replays it; on the CPU it calls the function.

    The first ``EAGER_CALLS`` calls run the function without recording, each with its inputs, so
    every call counts as one update. With the same generator a graphed run draws the same noise and
    makes the same updates, up to rounding differences between kernels.

    Args:
        function: maps tensors of fixed shapes to a tuple of tensors. Other tensors that it reads
            (weights, moments) must be the same objects at each call, changed in place. It must not
            wait for the GPU: no ``.item()``, no branch on a value, no noise drawn on the CPU. Plain
            numbers keep the value that they had during recording.
        generator: source of the function's noise, on the device of the inputs; None without noise.

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
        """Call the function, or replay its recording.

        Args:
            *inputs: tensors on one device, of the same shapes at every call.

        Returns:
            New, detached tensors with the function's results.

        Raises:
            ValueError: an input differs in shape from the recorded one.
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
                    f"input {position}: got shape {list(given.shape)}; allowed the recorded "
                    f"{list(static.shape)}; make another Graphed for other shapes"
                )
            static.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _on_side_stream(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Warm up on the stream of the recording, as torch requires for gradients."""
        current = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), one_after_another(), warnings.catch_warnings():
            # Optimisers warn that their step is not recorded. It is, after the warm-up.
            warnings.filterwarnings("ignore", ".*capturable=True.*")
            outputs = _detached(self._function(*inputs))
        current.wait_stream(self._stream)
        return outputs

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        self._inputs = [given.detach().clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            cast(Any, graph).register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream), one_after_another():
            self._outputs = _detached(self._function(*self._inputs))
        return graph


def _detached(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(output.detach() for output in outputs)


class _WithGradient(torch.autograd.Function):
    """Returns values whose gradients by the parameters are given, flat."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.shapes = [parameter.shape for parameter in parameters]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        flat = upstream[0] @ gradient if gradient.dim() > 1 else upstream[0] * gradient
        parts = flat.split([shape.numel() for shape in ctx.shapes])
        shaped = [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]
        return None, None, *shaped


def with_gradient(
    value: Float[Tensor, "*value"],
    gradient: Float[Tensor, "..."],
    parameters: Sequence[nn.Parameter],
) -> Float[Tensor, "*value"]:
    """Attach known gradients to a scalar or a vector, for an optimiser that calls autograd.

    Args:
        value: the scalar, or a vector.
        gradient: its gradient by all parameters, flat; of a vector ``[value, parameter]``.
        parameters: in the order of the gradient.

    Returns:
        The same value, differentiable once.

    Raises:
        ValueError: the value has more than one axis, or the gradient's shape does not fit it or the
            parameters.

    Example:
        >>> x = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> known = with_gradient(torch.tensor(5.0), torch.tensor([3.0, 4.0]), [x])
        >>> known.backward()
        >>> x.grad
        tensor([3., 4.])
    """
    size = sum(parameter.numel() for parameter in parameters)
    if value.dim() > 1:
        raise ValueError(
            f"value: got shape {list(value.shape)}; allowed a scalar or a vector; flatten it"
        )
    if gradient.shape != (*value.shape, size):
        raise ValueError(
            f"gradient: got shape {list(gradient.shape)}; allowed {[*value.shape, size]}, as the "
            f"parameters have {size} entries; pass the gradient by these parameters"
        )
    return cast(Any, _WithGradient).apply(value.detach(), gradient, *parameters)
