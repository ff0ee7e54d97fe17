"""A filmstrip: images seen, reconstructed by the world model, and imagined without looking."""

from pathlib import Path

import imageio.v3 as imageio
import torch
from torch import Tensor

from blocks import ImageDecoder, State, Transitions, WorldModel, imagine
from blocks.imagination import recorded_actions

WATCHED, IMAGINED = 8, 12
"""Agent steps in which the model sees the images, and those after them in which it does not."""
SHOWN = 2  # one agent step in so many
SCALE = 2  # of the pixels


@torch.no_grad()
def filmstrip(model: WorldModel, episode: Transitions, path: Path) -> Path | None:
    """Write a picture of three rows: images, reconstructions, and open-loop imagination.

    From the middle of the episode. The last row is the first member's; while it still sees, it is
    white.

    Args:
        model: of images.
        episode: ``[1, time, ...]``, from its beginning.
        path: of the png.

    Returns:
        The path, or None for an episode that is too short.
    """
    assert isinstance(model.decoder, ImageDecoder)
    length = episode.row.numel()
    start = min(length // 2, length - WATCHED - IMAGINED)
    if start < 0:
        return None
    device = next(model.parameters()).device
    seen = Transitions(*(x[:, : start + WATCHED + IMAGINED].to(device) for x in episode))
    filtered = model.filter(seen, torch.Generator().manual_seed(0)).state
    last = start + WATCHED - 1
    state = State(*(x[:, last].expand(model.members, -1, -1) for x in filtered))
    imagined = imagine(
        model.transition(model.parameter_posterior.sample()),
        recorded_actions(seen.action[0, last + 1 :]),
        state,
        IMAGINED,
        action_size=seen.action.shape[-1],
        generator=torch.Generator().manual_seed(0),
    )
    alone = model.decoder.to_bytes(model.decoder(imagined.state.feat[0, 1:, 0]))
    blank = torch.full_like(alone[:1], 255).expand(WATCHED, -1, -1, -1)
    reconstructed = model.decoder.to_bytes(model.decoder(filtered.feat[0, start:]))
    rows = [seen.observation[0, start:], reconstructed, torch.cat([blank, alone])]
    imageio.imwrite(path, _strip(torch.stack(rows)[:, ::SHOWN].cpu()).numpy())
    return path


def _strip(images: Tensor) -> Tensor:
    """Images ``[row, column, height, width, 3]`` side by side, with a white line between them."""
    large = images.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    framed = torch.nn.functional.pad(large, (0, 0, 1, 1, 1, 1), value=255)
    rows, columns, height, width, _ = framed.shape
    return framed.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
