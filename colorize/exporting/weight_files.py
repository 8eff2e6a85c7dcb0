"""A generator as safetensors, and as ONNX (extra `onnx`) with the proof that ONNX Runtime computes the same."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from colorize.inference.onnx_backend import CENTRES, GREY, LOGITS, RGB, make_session
from colorize.networks.folding import fold_norms
from colorize.networks.generator import Generator
from colorize.networks.heads import BinsHead
from colorize.networks.options import MIN_SIZE_PX
from colorize.runtime.errors import UserError, brief
from colorize.runtime.log import log
from colorize.weights.load import Weights
from colorize.weights.stated import EXPORT_FORMAT

CHECKED = ((1, 64, 96), (2, 71, 53), (1, 220, 220))  # batch, height and width of what is compared
LARGEST_DIFFERENCE = 1e-3  # of any value of the RGB on any of them: about a quarter of an 8-bit step


def to_safetensors(weights: Weights, half: bool = False) -> bytes:
    """Make the file that `load_weights` reads as the same, but for rounding with `half`."""
    state = weights.network.state_dict()
    tensors = {name: (round_to_half(tensor) if half else tensor).contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"colorize": describe(weights)})


def describe(weights: Weights) -> str:
    """Return the JSON by which an export states its network."""
    content = {
        "format": EXPORT_FORMAT,
        "generator": weights.network.architecture,
        "preprocessing": asdict(weights.preprocessing),
        "provenance": weights.provenance,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def round_to_half(tensor: Tensor) -> Tensor:
    """Round a weight to float16; vectors (norms, biases) stay; raise UserError where a value is too large."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    small = tensor.half()
    if not small.isfinite().all():
        raise UserError("half=true: float16 cannot hold these weights (some are above 65,504): leave it out")
    return small


def descriptions(network: Generator) -> dict[str, str]:
    """Describe the file's input and outputs, as its metadata and its card do."""
    found = {
        GREY: f"(batch, 1, height, width) float32 in [0, 1]: Rec. 601 luma of the sRGB-encoded photo; height and width "
        f"from {MIN_SIZE_PX} px up, multiples of nothing",
        RGB: "(batch, 3, height, width) float32, sRGB-encoded red, green, blue, nominally in [0, 1] but not clamped; "
        "only its chroma is meant to be used, with the photo's own luma",
    }
    if isinstance(network.head, BinsHead):
        found[LOGITS] = (
            "(batch, cells, h, w) float32, how likely is which chroma, before a softmax over the cells, whose a and b "
            f"in CIE L*a*b* are `{CENTRES}` in the metadata, JSON"
        )
    return found


def to_onnx(content: Weights, half: bool = False) -> tuple[bytes, float]:
    """Make an ONNX file of the generator, for any batch and any size from 32 px up, and compare it with PyTorch.

    The network in `content` is changed: its norms are folded, with `half` its weights rounded, and stored as float16.
    The file's metadata hold `colorize`, as in safetensors, and what "grey" and "rgb" are. Return the file, and the
    largest difference from PyTorch's float32. Raises UserError where it is too large, or float16 cannot hold a weight.
    """
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(batch, 1, height, width, generator=random) for batch, height, width in CHECKED]
    with torch.inference_mode():
        expected = [content.network(image) for image in images]
    network = fold_norms(content.network)
    if half:
        with torch.inference_mode():
            for parameter in network.parameters():
                parameter.copy_(round_to_half(parameter))
            exact, expected = expected, [network(image) for image in images]
        moved = max(float((a - b).abs().max()) for a, b in zip(exact, expected, strict=True))
        log.info(f"float16 moves a value of the RGB by at most {moved:.1g}")
    metadata = {"colorize": describe(content), **descriptions(network)}
    if isinstance(network.head, BinsHead):
        metadata[CENTRES] = json.dumps(network.head.centres.tolist())
    file = _translate(_Outputs(network).eval(), metadata, half)
    return file, _compare(file, images, expected)


class _Outputs(nn.Module):
    """Module with the outputs of a file: RGB, and logits of a network that has them."""

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network

    def forward(self, grey: Tensor) -> tuple[Tensor, ...]:
        made = self.network(grey, detailed=True)
        return (made.rgb,) if made.logits is None else (made.rgb, made.logits)


def _translate(network: _Outputs, metadata: dict[str, str], half: bool = False) -> bytes:
    batch = torch.export.Dim("batch", min=1)
    height, width = (torch.export.Dim(name, min=MIN_SIZE_PX) for name in ("height", "width"))
    program = torch.onnx.export(
        network.requires_grad_(False),
        (torch.zeros(2, 1, 64, 96),),
        dynamo=True,
        input_names=[GREY],
        output_names=[name for name in (RGB, LOGITS) if name in metadata],
        dynamic_shapes=({0: batch, 2: height, 3: width},),
        verbose=False,
    )
    assert program is not None
    proto: Any = program.model_proto
    # Beside names and shapes, PyTorch notes for each node the lines of code it comes from, with this machine's paths.
    del proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    if half:
        _halve(proto.graph)
    return proto.SerializeToString()


def _halve(graph: Any) -> None:
    """Store as float16, with a Cast to float32 behind each, the constants that float16 holds exactly."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size <= 64:  # a node more would take more bytes than are saved
            continue
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        if np.array_equal(small, values):
            casts.append(helper.make_node("Cast", [f"{constant.name}.half"], [constant.name], to=TensorProto.FLOAT))
            constant.CopyFrom(numpy_helper.from_array(small, f"{constant.name}.half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _compare(file: bytes, images: list[Tensor], expected: list[Tensor]) -> float:
    try:
        session = make_session(file)
        answers = [torch.from_numpy(session.run([RGB], {GREY: image.numpy()})[0]) for image in images]
    except Exception as error:  # the runtime has a class for each status, outside its public names
        raise UserError(f"ONNX Runtime cannot run the exported network: {brief(error)}") from error
    pairs = zip(answers, expected, strict=True)
    found = [float((answer - rgb).abs().max()) if answer.shape == rgb.shape else math.inf for answer, rgb in pairs]
    for difference in found:
        if not difference <= LARGEST_DIFFERENCE:  # nor if it is no number
            raise UserError(
                f"ONNX Runtime differs from PyTorch by {difference:.2g}, more than {LARGEST_DIFFERENCE:g}: nothing was "
                "written"
            )
    return max(found)
