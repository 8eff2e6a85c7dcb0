"""Generators (U-Nets), the critic and their encoders. Importing the package alone imports no torch."""
