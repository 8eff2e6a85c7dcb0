"""The generator in a file of weights, whoever wrote it, and how it was taught to see photos.

A file is recognised by its content: a checkpoint of `colorize.train`, an export, or a file of DeOldify or fastai (see
`colorize.weights.foreign`). Nothing in it is executed.

An export is a safetensors file of the generator's `state_dict()`, which states what it is (`colorize.weights.stated`).
Its tensors are float32, or float16 where they have two dimensions or more (`half`); `colorize.exporting` writes it.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
from safetensors import SafetensorError

from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.options import MIN_SIZE_PX
from colorize.networks.preprocessing import Preprocessing
from colorize.runtime.errors import UserError
from colorize.weights import bundled, checkpoints, foreign
from colorize.weights.safe_reading import one_version, read_file, read_state, state_of
from colorize.weights.stated import ORIGINS, read_stated


@dataclass(frozen=True)
class Weights:
    """Content of a file of weights: the generator, on the CPU, float32, in eval mode, and how it is shown photos.

    `title` is what it is and was trained on, for people to read; `provenance` what an export says of its training,
    `metadata` what a checkpoint does.
    """

    network: Generator
    preprocessing: Preprocessing
    title: str
    provenance: dict[str, Any] = field(default_factory=dict)
    metadata: checkpoints.CheckpointMetadata | None = None


def load_weights(
    checkpoint: str | os.PathLike[str], use_ema: bool = True, expected: dict[str, Any] | None = None
) -> Weights:
    """Read a generator from a file of any kind named above, or the one that the word `bundled` means.

    Of a checkpoint with averaged weights, `use_ema` takes these, otherwise those of the last step. Raises UserError
    where there is no such file, or no generator in it, or one of another architecture than `expected` (None: any).
    """
    path = bundled.find_weights(checkpoint)
    with one_version(path):
        if (weights := load_export(path)) is None:
            content = read_file(path)
            if not checkpoints.is_checkpoint(content):
                state = state_of(content, path)
                unet, source = foreign.make_unet(state, path), foreign.recognise(state)
                assert source is not None  # or make_unet would have said so
                if expected is not None and (differing := checkpoints.differing_options(unet.architecture, expected)):
                    raise UserError(
                        f"{path} is {source.title}: give model={source.model} (the configuration differs in "
                        f"{', '.join(differing)})"
                    )
                return Weights(unet, source.preprocessing, source.title)
            network, metadata = checkpoints.network_in(content, path, "generator", use_ema)
            assert isinstance(network, Generator)
            title = f"checkpoint of phase {metadata.phase}, {metadata.images_seen} images seen"
            if metadata.averaged:
                title += ", averaged weights" if use_ema else ", weights of the last step"
            title += ORIGINS.get(metadata.settings.get("data.kind"), "")
            weights = Weights(network, Preprocessing(max(metadata.size_px, MIN_SIZE_PX)), title, {}, metadata)
        if expected is not None:
            checkpoints.check_architecture(path, "generator", weights.network.architecture, expected)
        return weights


def load_network(
    path: str | Path, name: Literal["generator", "critic"], expected: dict[str, Any] | None = None, use_ema: bool = True
) -> Generator | Critic:
    """Read the generator of any file of weights, or the critic of a checkpoint, as `load_weights` does."""
    if name == "generator":
        return load_weights(path, use_ema, expected).network
    with one_version(Path(path)):
        critic, _ = checkpoints.network_in(read_file(path), path, name)
    if expected is not None:
        checkpoints.check_architecture(path, name, critic.architecture, expected)
    return critic


def load_export(path: str | Path) -> Weights | None:
    """Read an export of this program; None where the file is another; UserError where it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as exported:
            stated = (exported.metadata() or {}).get("colorize")
    except (OSError, SafetensorError):
        return None
    if stated is None:
        return None
    said, state = read_stated(path, stated), read_state(path)
    network = checkpoints.build_stated(path, "generator", said.generator)
    assert isinstance(network, Generator)
    checkpoints.filled(network, state, path)
    return Weights(network, said.preprocessing, said.title, said.provenance)
