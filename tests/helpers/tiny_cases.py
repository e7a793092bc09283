"""For every bundle the smallest generated data, and settings that train on them in seconds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.data.abdomen_phantom import write_synapse
from common.data.chaos_phantom import write_chaos
from common.data.kits_phantom import write_kits19
from common.data.phantoms import write_mmwhs
from common.data.picture_phantoms import write_polyp_pranet
from tests.helpers.workflows import TINY_3D, TINY_CROSSDOMAIN, TINY_DMNET, TINY_M2SNET, TINY_SKC


class TinyCase(NamedTuple):
    """Attributes: what writes the data into a folder, settings of training, pattern of one image of them."""

    write: Callable[[Path], Any]
    settings: dict[str, Any]
    image: str


TINY_CASES = {
    "kcbac_mmwhs": TinyCase(
        partial(write_mmwhs, num_cases=5, num_test=0, size=(32, 32, 24)), TINY_3D, "*image.nii.gz"
    ),
    "m2snet_polyp": TinyCase(write_polyp_pranet, {**TINY_M2SNET, "num_folds": 5}, "images/*.png"),
    "crossdomain_liver": TinyCase(
        partial(write_chaos, num_ct=2, num_mr=2, size=32, ct_slices=6, mr_slices=6),
        TINY_CROSSDOMAIN,
        "DICOM_anon",
    ),
    "dmnet_kits": TinyCase(partial(write_kits19, num_cases=10), TINY_DMNET, "imaging.nii.gz"),
    "skc_synapse": TinyCase(partial(write_synapse, size=(16, 16, 12)), TINY_SKC, "img*.nii.gz"),
}
