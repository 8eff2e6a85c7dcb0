"""Weights of other projects (DeOldify, fastai), read into this one's networks without executing anything in them.

    from colorize import interop

    unet = interop.load("ColorizeArtistic_gen.pth")  # a UNet in eval mode

Whoever wants to know where the weights come from takes the steps one by one, and reads the file once:

    state = interop.read_state(path)      # named tensors
    source = interop.recognise(state)     # None, or .name == "deoldify_artistic", "deoldify_stable" or "fastai"
    unet = interop.make_unet(state, path)
"""

from colorize.interop.files import read_file, read_state, state_of
from colorize.interop.sources import SOURCES, Source, load, make_unet, recognise

__all__ = ["SOURCES", "Source", "load", "make_unet", "read_file", "read_state", "recognise", "state_of"]
