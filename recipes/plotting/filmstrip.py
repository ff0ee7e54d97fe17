"""Draw a filmstrip: recorded images, their reconstructions, and open-loop imagination."""

from pathlib import Path

import imageio.v3 as imageio
import torch
from torch import Tensor

from blocks import ImageDecoder, State, Transitions, WorldModel, imagine
from blocks.imagination import recorded_actions

WATCHED, IMAGINED = 8, 12
"""Agent steps filtered with images, and agent steps imagined after them."""
STRIDE = 2  # agent steps from one column to the next
SCALE = 2  # enlargement of the pixels


@torch.no_grad()
def filmstrip(model: WorldModel, episode: Transitions, path: Path) -> Path | None:
    """Write a png with three rows of images from the middle of an episode.

    The rows are the recorded images, the reconstructions, and the open-loop imagination of the
    first member, which is white while the model still filters.

    Args:
        model: world model of images.
        episode: ``[1, time, ...]``, from its beginning.
        path: file to write.

    Returns:
        The path, or None if the episode is too short.
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
    open_loop = model.decoder.to_bytes(model.decoder(imagined.state.feat[0, 1:, 0]))
    blank = torch.full_like(open_loop[:1], 255).expand(WATCHED, -1, -1, -1)
    reconstructed = model.decoder.to_bytes(model.decoder(filtered.feat[0, start:]))
    rows = [seen.observation[0, start:], reconstructed, torch.cat([blank, open_loop])]
    imageio.imwrite(path, _strip(torch.stack(rows)[:, ::STRIDE].cpu()).numpy())
    return path


def _strip(images: Tensor) -> Tensor:
    """Join images ``[row, column, height, width, 3]`` with white lines between them."""
    large = images.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    framed = torch.nn.functional.pad(large, (0, 0, 1, 1, 1, 1), value=255)
    rows, columns, height, width, _ = framed.shape
    return framed.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
