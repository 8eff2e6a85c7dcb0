"""Fills a manifest of tensor names and shapes with seeded values, so that two programs hold the same weights unshipped.

A manifest is a JSON list of [name, shape] in state-dict order. Every value depends only on the tensor's name and shape:
weights are scaled normals, batch-norm statistics are near (0, 1), and the singular vectors that spectral norm stores
(`weight_u`, `weight_v`) are the ones that 30 power iterations on the filled weight reach. (The reference took them in
float64. Float32 is faster and moves an answer by less than 1e-6.)
"""

import hashlib

import torch


def seeded(name: str, shape: list[int]) -> torch.Tensor:
    """Standard normal values in float32, a function of `name` and `shape` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(manifest: list[tuple[str, list[int]]]) -> dict[str, torch.Tensor]:
    """State dict for `manifest`: `{name: float32 tensor}`, with integer counters as zero int64 scalars."""
    state: dict[str, torch.Tensor] = {}
    for name, shape in manifest:
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            state[name] = torch.zeros((), dtype=torch.int64)
        elif leaf == "running_var":
            state[name] = 1 + 0.1 * seeded(name, shape).abs()
        elif leaf in ("running_mean", "bias"):
            state[name] = 0.05 * seeded(name, shape)
        elif leaf == "gamma":
            state[name] = torch.full(shape, 0.7)
        elif leaf == "weight_g":
            state[name] = 1 + 0.1 * seeded(name, shape).abs()
        elif len(shape) == 1 and leaf == "weight":
            state[name] = 1 + 0.1 * seeded(name, shape)
        elif leaf in ("weight", "weight_orig", "weight_v") and len(shape) > 1:
            fan_in = int(torch.tensor(shape[1:]).prod())
            state[name] = seeded(name, shape) * (2 / fan_in) ** 0.5
    for prefix in [name.removesuffix(".weight_orig") for name in state if name.endswith(".weight_orig")]:
        matrix = state[f"{prefix}.weight_orig"].flatten(1)
        v = torch.ones(matrix.shape[1]) / matrix.shape[1] ** 0.5
        for _ in range(30):
            u = torch.nn.functional.normalize(matrix @ v, dim=0)
            v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        state[f"{prefix}.weight_u"], state[f"{prefix}.weight_v"] = u, v
    return state


def reference_input(height: int, width: int) -> torch.Tensor:
    """Input of the reference run, (1, 3, height, width) float32: one seeded plane repeated over the channels."""
    return seeded(f"input {height}x{width}", [1, 1, height, width]).repeat(1, 3, 1, 1)
