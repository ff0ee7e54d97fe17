"""Record the matrix products of a computation, and replay only them."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.addmm,
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
}


class Operand(NamedTuple):
    """Memory layout of a tensor; a transposed matrix has swapped strides."""

    address: int  # address of the storage
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def extent(self) -> int:
        """Return the number of storage elements up to the tensor's last one."""
        reach = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.offset + reach + 1


class Product(NamedTuple):
    """One call with operands ``(a, b)``, or ``(c, a, b)`` for ``c + a @ b``."""

    function: Callable[..., Tensor]
    operands: tuple[Operand, ...]
    scalars: dict[str, float]

    @property
    def multiply_adds(self) -> int:
        """Count the multiply-adds of ``[..., m, k] @ [..., k, n]``."""
        a, b = self.operands[-2:]
        return prod(a.size) * b.size[-1]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PRODUCTS:
            operands = tuple(_operand(x) for x in args)
            self.products.append(Product(PRODUCTS[func], operands, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


def products_of(run: Callable[[], object]) -> list[Product]:
    """Record the products of one run in order, including its backward passes."""
    with _Recorder() as recorder:
        run()
    return recorder.products


def replay(products: list[Product]) -> Callable[[], None]:
    """Build a function that computes these products on random numbers in the same memory layout.

    Operands that shared memory share it again, so a weight that is used in every step is as likely
    to be in the cache as in the recorded run.
    """
    extents: dict[int, int] = {}
    for product in products:
        for x in product.operands:
            extents[x.address] = max(extents.get(x.address, 0), x.extent)
    buffers = {address: torch.randn(extent) for address, extent in extents.items()}
    calls = [
        (
            product.function,
            [buffers[x.address].as_strided(x.size, x.stride, x.offset) for x in product.operands],
            product.scalars,
        )
        for product in products
    ]

    def run() -> None:
        for function, operands, scalars in calls:
            function(*operands, **scalars)

    return run


def _operand(x: Tensor) -> Operand:
    address = x.untyped_storage().data_ptr()
    return Operand(address, tuple(x.size()), x.stride(), int(x.storage_offset()))
