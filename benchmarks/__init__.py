"""Measurements that back the numbers of the documents; run one with ``python -m benchmarks.<name>``."""
