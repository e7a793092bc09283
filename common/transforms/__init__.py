"""Transforms that MONAI does not have."""
