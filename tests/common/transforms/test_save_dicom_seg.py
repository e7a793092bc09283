import json
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, Resized, SaveImaged

from common.data.writers import image_writer
from common.errors import InputError
from common.transforms.label_codes import RestoreLabelCodesd
from common.transforms.save_dicom_seg import DICOM_SEG, SaveDicomSegd
from tests.helpers.dicom import write_series
from tests.helpers.dicom_seg import NO_HIGHDICOM, seg_on_grid

NAMES = ["LV", "RV"]
CODES = [500, [600, 601]]


@pytest.fixture
def bundle(tmp_path):
    pytest.importorskip("highdicom", reason=NO_HIGHDICOM)
    (tmp_path / "hearts" / "configs").mkdir(parents=True)
    (tmp_path / "hearts" / "configs" / "metadata.json").write_text(json.dumps({"version": "1.2.3"}))
    return tmp_path / "hearts"


def chains(bundle, codes=None):
    """Preprocessing and postprocessing as in the bundles: turned, resampled, and both undone."""
    out = bundle.parent / "out"
    before = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=None),
            Resized("image", spatial_size=(12, 8, 4), mode="nearest"),
        ]
    )
    after = [Invertd("pred", before, orig_keys="image", nearest_interp=True)]
    after += [RestoreLabelCodesd("pred", codes)] if codes else []
    after += [
        SaveImaged(
            "pred",
            output_dir=out,
            output_ext=".nii.gz",
            output_postfix="seg",
            output_dtype="int16",
            separate_folder=False,
            resample=False,
            writer=image_writer(".nii.gz"),
            savepath_in_metadict=True,
            print_log=False,
        ),
        SaveDicomSegd("pred", out, NAMES, bundle, codes=codes),
    ]
    return before, Compose(after), out


def predicted(item):
    """A stand-in for a prediction on the grid of the network: classes 0 to 2 by intensity."""
    image = item["image"]
    low, high = image.quantile(torch.tensor([0.5, 0.8])).tolist()
    return item | {"pred": MetaTensor((image > low).float() + (image > high).float(), meta=image.meta)}


@pytest.mark.parametrize("codes", [None, CODES])
def test_seg_equals_the_saved_nifti(tmp_path, bundle, codes):
    write_series(tmp_path / "scan.1", FrameOfReferenceUID="1.9")
    before, after, out = chains(bundle, codes)
    item = after(predicted(before({"image": str(tmp_path / "scan.1")})))
    path = item["pred"].meta[DICOM_SEG]
    assert path == str(out / "scan_seg.dcm")  # MONAI cuts a folder's name at its last dot
    assert path.replace(".dcm", ".nii.gz") == item["pred"].meta["saved_to"]
    nifti = nib.load(out / "scan_seg.nii.gz")
    voxels = np.asarray(nifti.dataobj)
    found = seg_on_grid(path, nifti.affine, nifti.shape)
    for name, value in zip(NAMES, [500, 600] if codes else [1, 2]):
        assert (voxels == value).any()
        assert np.array_equal(found[name], voxels == value)
    seg = pydicom.dcmread(path)
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "hearts 1.2.3"


def test_nothing_for_an_empty_mask(tmp_path, bundle):
    write_series(tmp_path / "scan", FrameOfReferenceUID="1.9")
    before, after, out = chains(bundle)
    item = predicted(before({"image": str(tmp_path / "scan")}))
    saved = after(item | {"pred": item["pred"] * 0})
    assert DICOM_SEG not in saved["pred"].meta
    assert [path.name for path in out.iterdir()] == ["scan_seg.nii.gz"]


def test_other_images_pass(tmp_path, bundle):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    item = LoadImaged("pred", ensure_channel_first=True)({"pred": str(tmp_path / "a.nii.gz")})
    saved = SaveDicomSegd("pred", tmp_path / "out", NAMES, bundle)(item)
    assert saved["pred"] is item["pred"]
    assert not (tmp_path / "out").exists()


def test_mistakes_are_found_before_the_run(tmp_path, bundle, monkeypatch):
    with pytest.raises(InputError, match="object: no term"):
        SaveDicomSegd("pred", tmp_path, ["object"], bundle)
    with pytest.raises(InputError, match="expected 2 entries"):
        SaveDicomSegd("pred", tmp_path, NAMES, bundle, codes=[500])
    with pytest.raises(InputError, match=r"nowhere/configs/metadata\.json: expected .* set bundle_root"):
        SaveDicomSegd("pred", tmp_path, NAMES, tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match="highdicom: expected this package"):
        SaveDicomSegd("pred", tmp_path, NAMES, bundle)
