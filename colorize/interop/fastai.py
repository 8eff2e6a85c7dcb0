"""Tensor names of a fastai v2 DynamicUnet (weight norm, self-attention, last cross) turned into those of `UNet`."""

from collections.abc import Mapping

from torch import Tensor

from colorize.errors import UserError

# Modules that hold others: what follows stays as it is, for fastai's encoder is torchvision's, cut into a list.
_ENCODER = {
    "layers.0.0": "encoder.conv1",
    "layers.0.1": "encoder.bn1",
    "layers.0.4": "encoder.layer1",
    "layers.0.5": "encoder.layer2",
    "layers.0.6": "encoder.layer3",
    "layers.0.7": "encoder.layer4",
}
_BATCH_NORMS = {"layers.1": "bottom_norm"} | {f"layers.{4 + i}.bn": f"up_blocks.{i}.skip_norm" for i in range(4)}
_WEIGHT_NORMED = {
    "layers.3.0.0": "bottom.0.conv",
    "layers.3.1.0": "bottom.1.conv",
    "layers.8.0.0": "last_up.layer.conv",
    "layers.11.convpath.0.0": "last_block.conv1.conv",
    "layers.11.convpath.1.0": "last_block.conv2.conv",
    "layers.12.0": "to_colour.conv",
}
for _i in range(4):
    _WEIGHT_NORMED[f"layers.{4 + _i}.shuf.0.0"] = f"up_blocks.{_i}.up.layer.conv"
    _WEIGHT_NORMED[f"layers.{4 + _i}.conv1.0"] = f"up_blocks.{_i}.conv1.conv"
    _WEIGHT_NORMED[f"layers.{4 + _i}.conv2.0"] = f"up_blocks.{_i}.conv2.conv"
_SPECTRAL_NORMED = {f"layers.5.conv2.2.{part}.0": f"up_blocks.1.attention.{part}" for part in ("query", "key", "value")}
_ATTENTION = {"layers.5.conv2.2": "up_blocks.1.attention"}

_BATCH_NORM_TENSORS = {n: n for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
_WEIGHT_NORM_TENSORS = {
    "bias": "bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_SPECTRAL_NORM_TENSORS = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}

_DECODER = {
    f"{theirs}.{their_tensor}": f"{ours}.{our_tensor}"
    for modules, tensors in (
        (_BATCH_NORMS, _BATCH_NORM_TENSORS),
        (_WEIGHT_NORMED, _WEIGHT_NORM_TENSORS),
        (_SPECTRAL_NORMED, _SPECTRAL_NORM_TENSORS),
        (_ATTENTION, {"gamma": "gamma"}),
    )
    for theirs, ours in modules.items()
    for their_tensor, our_tensor in tensors.items()
}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the same tensors under the names that `UNet().load_state_dict` wants.

    Args:
        state: a fastai v2 DynamicUnet's state dict: ResNet encoder, weight norm, self-attention, last cross.

    Raises:
        UserError: a name that such a network does not have.
    """
    renamed = {}
    for name, tensor in state.items():
        module = ".".join(name.split(".")[:3])
        if name in _DECODER:
            renamed[_DECODER[name]] = tensor
        elif module in _ENCODER and name != module:
            renamed[_ENCODER[module] + name.removeprefix(module)] = tensor
        else:
            raise UserError(f"tensor {name} is not one of fastai's DynamicUnet on a ResNet: give such a state dict")
    return renamed
