"""The published splits of Synapse and AMOS: complete, free of overlap, and as published."""

import hashlib
import json

import pytest

from common.data.abdomen import AMOS_LAST_CT, SYNAPSE_NUMBERS
from common.data.case_streams import STREAMS

# Cases of each stream, and SHA-256 of all ids.
SPLITS = {
    "synapse_10": ((2, 18, 4, 6), "171a84792158208960a6856efecc461d0df3db5d65eeb75596dcc844e8fe81f3"),
    "synapse_20": ((4, 16, 4, 6), "317589a941d2404f74f6e8caad6808fa1e706977487126619c64a7455bea3317"),
    "synapse_40": ((8, 12, 4, 6), "8f984ef817fde0ca9e39d911e368bb8b5d6ed0673d7c154127f8d984d083e26d"),
    "amos_2": ((4, 212, 24, 120), "91fd50e930e356985b6165e1540ff944174774385e273dcd37e655567aeaf010"),
    "amos_5": ((10, 206, 24, 120), "a04719422b0324258d8b9bb9156bdfa57a6e17b4391d28e74755cd3dcfc41f69"),
    "amos_10": ((21, 195, 24, 120), "d8ccfba3101100148663096497566dc7757dc96ef094309b61dc4b184ee810f4"),
}


@pytest.fixture(scope="module")
def splits(repository):
    files = sorted((repository / "bundles" / "skc_synapse" / "splits").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def numbers(ids):
    return [int(case_id[-4:]) for case_id in ids]


def test_no_split_is_shipped_that_leaks_validation_cases(splits):
    """The published lists of AMOS 20 % hold cases of the validation list."""
    assert splits.keys() == SPLITS.keys()


@pytest.mark.parametrize("name", SPLITS)
def test_counts_and_ids(splits, name):
    sizes, digest = SPLITS[name]
    split = splits[name]
    assert tuple(len(split[stream]) for stream in STREAMS) == sizes
    assert set(split) == {"published", *STREAMS}
    listed = [case_id for stream in STREAMS for case_id in split[stream]]
    assert len(listed) == len(set(listed))
    text = "\n".join(f"{stream} {' '.join(split[stream])}" for stream in STREAMS)
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.parametrize("name", [name for name in SPLITS if name.startswith("synapse")])
def test_synapse_splits_divide_the_thirty_scans_alike(splits, name):
    split, other = splits[name], splits["synapse_20"]
    assert sorted(numbers(case_id for stream in STREAMS for case_id in split[stream])) == list(
        SYNAPSE_NUMBERS
    )
    assert (split["validation"], split["test"]) == (other["validation"], other["test"])
    assert split["test"] == ["0008", "0027", "0029", "0033", "0037", "0039"]


@pytest.mark.parametrize(("name", "num_labeled_mr"), [("amos_2", 0), ("amos_5", 3), ("amos_10", 5)])
def test_amos_splits_hold_the_published_numbers_of_mr_scans(splits, name, num_labeled_mr):
    """216 training cases, of them 34 MR; validation 24, of them 6; test 120, of them 20."""
    split = splits[name]
    training = split["labeled"] + split["unlabeled"]
    num_mr = [
        sum(number > AMOS_LAST_CT for number in numbers(ids))
        for ids in (split["labeled"], training, split["validation"], split["test"])
    ]
    assert num_mr == [num_labeled_mr, 34, 6, 20]
    assert len(training) == 216
    assert sorted(training) == sorted(splits["amos_10"]["labeled"] + splits["amos_10"]["unlabeled"])


def test_labeled_sets_are_not_nested(splits):
    """Stated of the published lists: those of AMOS 5 % share no case with 2 % or 10 %."""
    few, some, more = (set(splits[f"amos_{percent}"]["labeled"]) for percent in (2, 5, 10))
    assert not few & some
    assert not some & more
