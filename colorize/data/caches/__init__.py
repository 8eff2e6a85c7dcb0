"""Caches of what is known about a folder of photos, kept between runs."""
