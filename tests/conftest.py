"""Shared set-up of all tests: strict configs, one thread, fixed seeds, and the gate to real data."""

import os
from pathlib import Path

os.environ.setdefault("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from monai.utils import set_determinism

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    torch.set_num_threads(1)
    set_determinism(seed=0)
    yield
    set_determinism(seed=None)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real images; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SEGMENTATION_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SEGMENTATION_DATA_DIR)")
    return folder
