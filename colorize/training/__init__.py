"""How a phase trains: what, in whose turn, at which rates, from which checkpoint on, and judged by which figure."""
