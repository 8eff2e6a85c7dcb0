"""Colouring people's photos: reading them, showing them to the network, and writing the results with all they held."""
