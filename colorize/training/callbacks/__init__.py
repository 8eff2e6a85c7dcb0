"""Callbacks that watch and steer training from outside the training step."""
