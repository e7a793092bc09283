"""Cases of several domains: series by their headers and masks, files whole, every problem at once."""

import numpy as np
import pytest
from PIL import Image

from common.data.chaos import CHAOS_LIVER_CODES, chaos, domain_folders
from common.data.chaos_phantom import write_chaos
from common.data.domain_checks import check_domain_cases
from common.data.label_codes import SHARED, classes_by_domain
from common.data.phantoms import write_msd
from common.errors import InputError


@pytest.fixture
def folder(tmp_path):
    write_chaos(tmp_path, num_ct=2, num_mr=1, size=16, ct_slices=5, mr_slices=4)
    return tmp_path


def test_good_series_pass_with_progress(folder, capsys):
    check_domain_cases(chaos(str(folder)), CHAOS_LIVER_CODES, 2)
    assert "3/3" in capsys.readouterr().err


def test_every_problem_of_every_series_is_told_at_once(folder):
    cases = chaos(str(folder))
    masks = sorted((folder / "Train_Sets/MR/1/T1DUAL/Ground").glob("*.png"))
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(masks[1])
    sorted((folder / "Train_Sets/CT/1/DICOM_anon").glob("*.dcm"))[2].unlink()
    with pytest.raises(InputError) as error:
        check_domain_cases(cases, CHAOS_LIVER_CODES, 2)
    text = str(error.value)
    assert f"{masks[1].name}: found also 99" in text
    assert "about 1 slice(s) missing" in text
    assert "found 5 masks and 4 DICOM files" in text


def test_files_are_read_with_the_codes_of_their_domain(tmp_path):
    for name in ("A", "B"):
        write_msd(tmp_path / name, num_cases=1, num_classes=3, size=(8, 8, 6))
    cases = domain_folders(str(tmp_path))
    check_domain_cases(cases, None, 3)
    check_domain_cases(cases, {"A": {0: 0, 1: 1, 2: 1}, "B": {0: 0, 1: 0, 2: 1}}, 2)
    with pytest.raises(InputError, match=r"(?s)1 problem.*B.labelsTr.blobs_000.*found also 2"):
        check_domain_cases(cases, {"A": [[1, 2]], "B": None}, 2)
    with pytest.raises(InputError, match="expected codes of the domain 'B', found A"):
        check_domain_cases(cases, {"A": [[1, 2]]}, 2)


def test_tables_by_domain_or_for_all():
    assert classes_by_domain(None, 2) == {SHARED: {0: 0, 1: 1}}
    assert classes_by_domain({7: 1, 0: 0}, 2) == {SHARED: {7: 1, 0: 0}}
    assert classes_by_domain({"CT": [255], "MR": None}, 2) == {"CT": {0: 0, 255: 1}, "MR": {0: 0, 1: 1}}
