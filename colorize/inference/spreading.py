"""Spreading hints: what is known of a point corrects the network's colours around it, as far as they look alike.

A correction reaches as far as paths lead without a change of lightness or of the network's colour: the geodesic
distance of Yatziv & Sapiro, "Fast image and video colorization using chrominance blending", IEEE Transactions on Image
Processing 15(5), 2006. Several are joined by kriging: they fade far from all hints, and hints that lie close share
their say. docs/LOG.md has the comparison with Levin, Lischinski & Weiss 2004.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from colorize.color import Plane, grey_to_lightness, lab_to_rgb, rgb_to_lab
from colorize.inference.palette import likeness
from colorize.photos.hints import Hint

REACH = 1.0  # length of a path, in short sides of the photo, along which a correction falls to 1/e
STEEPNESS = 0.01  # length that a change by one unit of Lab adds to a path
LIKE = 20.0  # standard deviation, in units of Lab, of the looks that one correction holds for
DOUBT = 0.03
"""Error variance of a hint, as a share of the corrections' own: hints that contradict each other are averaged."""
NODES = 1 << 14  # paths lead over a grid of about this many nodes


def spread(rgb: Plane, grey: Plane, hints: Sequence[Hint], size: tuple[int, int]) -> Plane:
    """Return the network's `rgb`, `(3, h, w)`, corrected by hints in a photo of `size`, width and height.

    `grey` is the photo's luma, `(1, h, w)` in [0, 1]. Of the result, which may lie outside [0, 1], only chroma counts.
    """
    h, w = rgb.shape[-2:]
    look = np.concatenate([grey_to_lightness(grey), rgb_to_lab(rgb)[1:]]).astype(np.float32)
    columns, rows = np.array([hint.pixel(size, (w, h)) for hint in hints]).T
    # The mean of 3 x 3 pixels: nobody aims at a grain.
    own = uniform_filter(look, (1, 3, 3), mode="nearest")[:, rows, columns].T
    ab, known = look[1:].copy(), own[:, 1:].copy()
    for row, hint in zip(known, hints, strict=True):
        if hint.rgb is not None:
            row[:] = rgb_to_lab(np.asarray(hint.rgb, np.float32).reshape(3, 1, 1) / 255)[1:].ravel()
    step = max(1, round((h * w / NODES) ** 0.5))
    nodes = np.stack([np.asarray(Image.fromarray(plane).reduce(step)) for plane in look])
    rows, columns = rows // step, columns // step
    near = np.exp(path_lengths(nodes, step / min(h, w), rows, columns) / -REACH)
    values, vectors = np.linalg.eigh(near[:, rows, columns] * likeness(own, own, LIKE))
    # Of geodesic distances the matrix need not be positive.
    weights = vectors @ ((vectors.T @ (known - own[:, 1:])) / (values.clip(0) + DOUBT)[:, None])
    for one, place, weight in zip(near, own, weights, strict=True):
        grown = Image.fromarray(one).resize((step * one.shape[1], step * one.shape[0]), Image.Resampling.BILINEAR)
        share = np.asarray(grown)[:h, :w] * likeness(look.reshape(3, -1).T, place[None], LIKE).reshape(h, w)
        ab += weight[:, None, None].astype(np.float32) * share
    return rgb + lab_to_rgb(np.concatenate([look[:1], ab])) - lab_to_rgb(look)


def path_lengths(look: Plane, step: float, rows: Plane, columns: Plane) -> Plane:
    """Return the shortest paths from each of some nodes to all, `(n, h, w)`: `look` is Lab, nodes are `step` apart."""
    h, w = look.shape[-2:]
    node = np.arange(h * w).reshape(h, w)
    pairs = [(node[:, 1:], node[:, :-1]), (node[1:], node[:-1])]
    pairs += [(node[1:, 1:], node[:-1, :-1]), (node[1:, :-1], node[:-1, 1:])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    places = np.concatenate([step * np.indices((h, w)), STEEPNESS * look]).reshape(5, -1)
    lengths = np.linalg.norm(places[:, one] - places[:, other], axis=0)
    graph = coo_array((lengths, (one, other)), shape=(h * w, h * w)).tocsr()
    found = dijkstra(graph, directed=False, indices=rows * w + columns)
    return np.asarray(found, np.float32).reshape(-1, h, w)
