import pytest

from common.data.label_codes import class_of_code, code_of_class, shown
from common.errors import InputError


def test_codes_of_the_cardiac_data_set():
    codes = [500, 600, [420, 421], 550, 205, 820, 850]
    table = class_of_code(codes, 8)
    assert table == {0: 0, 500: 1, 600: 2, 420: 3, 421: 3, 550: 4, 205: 5, 820: 6, 850: 7}
    assert code_of_class(codes, 8) == [0, 500, 600, 420, 550, 205, 820, 850]


def test_no_codes_means_class_indices():
    assert class_of_code(None, 3) == {0: 0, 1: 1, 2: 2}
    assert code_of_class(None, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("codes", "num_classes"), [([1], 3), ([1, 1], 3), ([0], 2), ([-1], 2), (None, 1), (None, 256)]
)
def test_codes_that_do_not_fit_are_refused(codes, num_classes):
    with pytest.raises(InputError, match="expected"):
        class_of_code(codes, num_classes)


def test_long_lists_are_cut():
    assert shown([420.0001]) == "420.0001"
    assert shown([0.5, 2, 3], limit=2) == "0.5, 2, ... (3 values)"
