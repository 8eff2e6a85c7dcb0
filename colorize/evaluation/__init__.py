"""Measuring coloured photos against their originals: what is measured, on what, how sure, and where to stop."""
