"""Data: sources of photos and their split, files to RGB, augmentation, batches and their order."""
