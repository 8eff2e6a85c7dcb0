"""Weights that travel: the ONNX file, where a generator comes from, and the model card that says so."""
