"""Draw where around the robot the probes of `latent_probe` misjudge obstacles."""

from pathlib import Path

import numpy as np
from torch import Tensor

from recipes.experiments.latent_probe.dataset import LIDAR_RANGE
from recipes.plotting.figures import LOOK, QUIET, plt

RINGS, SECTORS = 6, 16
FEWEST = 5  # fewest rows for which a mean is drawn


def blind_spots_figure(obstacle: Tensor, error: Tensor, path: Path) -> Path:
    """Draw mean error and number of rows by the nearest obstacle's distance and bearing.

    Args:
        obstacle: distance in metres and bearing in radians (0 ahead, positive left), ``[row, 2]``.
        error: error of the predicted distance in metres, ``[row]``.
        path: file to write.
    """
    radius = np.linspace(0, LIDAR_RANGE, RINGS + 1)
    angle = np.linspace(-np.pi, np.pi, SECTORS + 1)
    distance, bearing = obstacle.numpy().T
    places, edges = np.stack([bearing, distance], 1), (angle, radius)
    count, _ = np.histogramdd(places, bins=edges)
    total, _ = np.histogramdd(places, bins=edges, weights=error.numpy())
    mean = np.where(count >= FEWEST, total / np.maximum(count, 1), np.nan)
    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(1, 2, figsize=(10, 5), subplot_kw={"projection": "polar"})
        for axis, values, title in (
            (axes[0], mean, "mean error of its distance, m"),
            (axes[1], np.where(count > 0, count, np.nan), "rows"),
        ):
            axis.set_theta_zero_location("N")
            mesh = axis.pcolormesh(angle, radius, values.T, cmap="viridis", vmin=0)
            figure.colorbar(mesh, ax=axis, shrink=0.7)
            axis.set_title(title, **QUIET)
            axis.grid(False)
        figure.suptitle("nearest obstacle around the robot, which looks up; rings are metres")
        figure.savefig(path)
        plt.close(figure)
    return path
