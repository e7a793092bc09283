"""Handlers and engines that MONAI and ignite do not have."""
