"""The list of written files at the end of an inference."""

import logging

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Identityd, SaveImaged
from torch import nn

from common.engines.saved_files import ListSavedFiles
from common.errors import InputError


def evaluator(postprocessing, num_cases=2):
    cases = [
        {"image": MetaTensor(torch.ones(1, 4, 4, 4), meta={"filename_or_obj": f"case_{i}.nii.gz"})}
        for i in range(num_cases)
    ]
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(cases)),
        network=nn.Identity(),
        postprocessing=postprocessing,
        val_handlers=[ListSavedFiles()],
    )


def save(folder, **options):
    return SaveImaged("pred", output_dir=folder, savepath_in_metadict=True, print_log=False, **options)


def test_files_are_listed_in_one_block(tmp_path, caplog):
    engine = evaluator(Compose([save(tmp_path), Identityd("pred")]))
    with caplog.at_level(logging.INFO):
        engine.run()
    blocks = [record.getMessage() for record in caplog.records if "wrote" in record.getMessage()]
    files = [tmp_path / f"case_{i}" / f"case_{i}_trans.nii.gz" for i in range(2)]
    assert blocks == [f"wrote 2 file(s):\n  {files[0]}\n  {files[1]}"]
    assert all(file.is_file() for file in files)


def test_second_run_starts_a_new_list(tmp_path, caplog):
    engine = evaluator(save(tmp_path), num_cases=1)
    with caplog.at_level(logging.INFO):
        engine.run()
        engine.run()
    assert [record.getMessage()[:13] for record in caplog.records if "wrote" in record.getMessage()] == [
        "wrote 1 file("
    ] * 2


def test_run_that_wrote_nothing_is_an_error():
    with pytest.raises(InputError, match="nothing was written: expected a file per case"):
        evaluator(Identityd("pred")).run()
