"""Measuring coloured photos against their originals: what is measured, on what, and how sure."""
