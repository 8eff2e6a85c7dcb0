"""Training: phases, update schedule, learning rates, the training step, resuming, and the metric that judges it."""
