"""Colouring photos and films with a trained generator."""
