"""Restore a state on another kind of device than the one that saved it."""

import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Restore a state exactly; one of another kind of device reseeds the generator instead.

    A CUDA generator's state has 16 bytes, a CPU generator's 5056, and neither means anything to the
    other. The seed is a hash of the state, so the same checkpoint gives the same run on the new
    device; a warning says that the numbers are not those of the old one.

    Args:
        generator: it changes.
        state: what ``get_state`` returned, ``[bytes]`` uint8.
    """
    state = state.cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
        return
    digest = hashlib.sha256(state.numpy().tobytes()).digest()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    warnings.warn(
        "generator: the checkpoint was made on another kind of device than "
        f"{generator.device.type}; noise goes on from a new seed, so the numbers differ from those "
        "of a run that stays on one kind",
        stacklevel=2,
    )


def for_device(state: Any, device: torch.device) -> Any:
    """Copy a state in which fused optimisers are ``capturable`` on a GPU and nowhere else.

    ``load_state_dict`` of an optimiser takes over the saved setting, and a GPU records the steps of
    capturable optimisers only.

    Args:
        state: of an agent: dictionaries, lists and tuples of tensors and plain values.
        device: where it is to be loaded.
    """
    if isinstance(state, dict):
        copied = {key: for_device(value, device) for key, value in state.items()}
        if copied.get("fused") and "capturable" in copied:
            copied["capturable"] = device.type == "cuda"
        return copied
    if isinstance(state, list | tuple):
        return type(state)(for_device(value, device) for value in state)
    return state
