"""Metrics that MONAI does not have."""
