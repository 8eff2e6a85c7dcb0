"""Films: decoding, colouring along time, and encoding with all that came with the picture."""
