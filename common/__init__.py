"""Networks, losses, engines, transforms, metrics and data layouts shared by the five bundles."""

__version__ = "0.1.0"
