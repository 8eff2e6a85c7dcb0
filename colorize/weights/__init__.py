"""Files of weights: checkpoints, exports, those of other projects."""
