"""Spreading hints: what is known of a point corrects the network's colours around it, as far as they look alike.

A correction reaches as far as paths lead without a change of lightness or of the network's colour: the geodesic
distance of Yatziv & Sapiro, "Fast image and video colorization using chrominance blending", IEEE Transactions on Image
Processing 15(5), 2006. Several are joined by kriging: they fade far from all hints, and hints that lie close share
their say. docs/LOG.md has the comparison with Levin, Lischinski & Weiss 2004.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from colorize.color import grey_to_lightness, lab_to_rgb, rgb_to_lab
from colorize.inference.palette import likeness
from colorize.photos.hints import Hint

REACH = 1.0
"""Length of a path, in short sides of the photo, along which a correction falls to 1/e."""
STEEPNESS = 0.01
"""Length that a change by one unit of Lab adds to a path."""
LIKE = 20.0
"""Standard deviation, in units of Lab, of the looks that one correction holds for."""
DOUBT = 0.03
"""Error variance of a hint, as a share of the corrections' own: hints that contradict each other are averaged."""
NODES = 1 << 14
"""Paths lead over a grid of about this many nodes."""


def spread(rgb: Tensor, grey: Tensor, hints: Sequence[Hint], size: tuple[int, int]) -> Tensor:
    """Return the network's `rgb`, `(3, h, w)`, corrected by hints in a photo of `size`, width and height.

    `grey` is the photo's luma, `(1, h, w)` in [0, 1]. Of the result, which may lie outside [0, 1], only chroma counts.
    """
    h, w = rgb.shape[-2:]
    look = torch.cat([grey_to_lightness(grey), rgb_to_lab(rgb)[1:]])
    columns, rows = torch.tensor([hint.pixel(size, (w, h)) for hint in hints]).T
    # The mean of 3 x 3 pixels: nobody aims at a grain.
    own = avg_pool2d(look[None], 3, 1, 1, count_include_pad=False)[0, :, rows, columns].T
    ab, known = look[1:].clone(), own[:, 1:].clone()
    for row, hint in zip(known, hints, strict=True):
        if hint.rgb is not None:
            row[:] = rgb_to_lab(torch.tensor(hint.rgb).view(3, 1, 1) / 255)[1:].flatten()
    step = max(1, round((h * w / NODES) ** 0.5))
    nodes, rows, columns = avg_pool2d(look[None], step, ceil_mode=True)[0], rows // step, columns // step
    near = (path_lengths(nodes, step / min(h, w), rows, columns) / -REACH).exp()
    values, vectors = torch.linalg.eigh(near[:, rows, columns] * likeness(own, own, LIKE))
    # Of geodesic distances the matrix need not be positive.
    weights = vectors @ ((vectors.T @ (known - own[:, 1:])) / (values.clamp_min(0) + DOUBT)[:, None])
    for one, place, weight in zip(near, own, weights, strict=True):
        share = interpolate(one[None, None], scale_factor=step, mode="bilinear")[0, :, :h, :w]
        share = share * likeness(look.flatten(1).T, place[None], LIKE).view(h, w)
        ab += weight[:, None, None] * share
    return rgb + lab_to_rgb(torch.cat([look[:1], ab])) - lab_to_rgb(look)


def path_lengths(look: Tensor, step: float, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the shortest paths from each of some nodes to all, `(n, h, w)`: `look` is Lab, nodes are `step` apart."""
    h, w = look.shape[-2:]
    node = np.arange(h * w).reshape(h, w)
    pairs = [(node[:, 1:], node[:, :-1]), (node[1:], node[:-1])]
    pairs += [(node[1:, 1:], node[:-1, :-1]), (node[1:, :-1], node[:-1, 1:])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    places = np.concatenate([step * np.indices((h, w)), STEEPNESS * look.numpy()]).reshape(5, -1)
    lengths = np.linalg.norm(places[:, one] - places[:, other], axis=0)
    graph = coo_array((lengths, (one, other)), shape=(h * w, h * w)).tocsr()
    found = dijkstra(graph, directed=False, indices=(rows * w + columns).numpy())
    return torch.from_numpy(found).float().view(-1, h, w)
