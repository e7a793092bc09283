import json

import pytest

from common.data.label_codes import GRAY, check_codes, class_count, class_of_code, code_of_class, shown
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


@pytest.mark.parametrize("as_json", [False, True])
def test_table_says_what_0_means(as_json):
    table = {255: 0, 0: 1, 80: 2, 160: 3}
    codes = json.loads(json.dumps(table)) if as_json else table
    assert class_of_code(codes, 4) == table
    assert code_of_class(codes, 4) == [255, 0, 80, 160]
    assert class_count(codes) == 4


def test_first_value_of_a_class_is_written():
    assert code_of_class({9: 1, 0: 0, 3: 1}, 2) == [0, 9]
    assert class_count({9: 1, 0: 0, 3: 1}) == class_count([[9, 3]]) == 2


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({255: 0, 0: 1}, "expected the classes 0 to 2, each"),
        ({255: 0, 0: 1, 80: 3}, "expected the classes 0 to 2, each"),
        ({255: 0, 0: 1, 80: 2, 90: 3}, "expected the classes 0 to 2, each"),
        ({255: 0, 0: 1, 80: "2"}, "expected the classes 0 to 2, each"),
        ({255: 0, 0: 1, 80: [2]}, "expected the classes 0 to 2, each"),
        ({0: 0, "0": 1, 80: 2}, "expected distinct values of 0 and above, found '0' in"),
        ({0: 0, -1: 1, 80: 2}, "found -1 in"),
        ({0: 0, 0.5: 1, 80: 2}, "found 0.5 in"),
        ({0: 0, "a": 1, 80: 2}, "found 'a' in"),
        (GRAY, "expected a list or a table of values, found 'gray'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        class_of_code(codes, 3)


def test_gray_masks_show_one_structure():
    check_codes(GRAY, 2)
    check_codes([7], 2)
    with pytest.raises(InputError, match="expected 2 classes for 'gray'"):
        check_codes(GRAY, 3)
    with pytest.raises(InputError, match="expected 2 entries"):
        check_codes([7], 3)


def test_long_lists_are_cut():
    assert shown([420.0001]) == "420.0001"
    assert shown([0.5, 2, 3], limit=2) == "0.5, 2, ... (3 values)"
