"""Trains a generative adversarial network to colour black-and-white photos, and colours photos with it."""

__version__ = "0.1.0"
