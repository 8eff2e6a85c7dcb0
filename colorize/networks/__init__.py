"""The generator (U-Net), the critic, their shared ResNet body and the loading of its pretrained weights."""

from colorize.networks.critic import Critic
from colorize.networks.encoder import ResNetBody
from colorize.networks.pretrained import load_pretrained
from colorize.networks.unet import UNet

__all__ = ["Critic", "ResNetBody", "UNet", "load_pretrained"]
