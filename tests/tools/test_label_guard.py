"""What the MONAI Label server refuses before MONAI Label sees it. What stock MONAI Label does is in docs."""

import pytest

from tools.label_guard import (
    RefusedError,
    check_address,
    check_file,
    check_name,
    check_origin,
    check_settings,
)

CODE = "$__import__('os').system('id')"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/static/../../etc/passwd", []),
        ("/session/..", []),
        ("/infer/kcbac_mmwhs", [("image", "../../etc/passwd")]),
        ("/infer/kcbac_mmwhs", [("image", "/etc/passwd")]),
        ("/infer/kcbac_mmwhs", [("image", "~root/scan.nii.gz")]),
        ("/infer/kcbac_mmwhs", [("image", "..\\..\\scan")]),
        ("/infer/kcbac_mmwhs", [("session_id", "a/../../b")]),
        ("/datastore/label", [("image", "case"), ("tag", "../x")]),
        ("/datastore/image", [("image", "case\0.nii.gz")]),
    ],
)
def test_address_that_leaves_its_folder_is_refused(path, query):
    with pytest.raises(RefusedError, match="expected"):
        check_address(path, query)


def test_ordinary_addresses_pass():
    check_address("/info/", [])
    check_address("/infer/kcbac_mmwhs", [("image", "case..1 (copy)"), ("output", "image")])
    check_address("/proxy/dicom/wado/studies/1.2.3/series", [("limit", "1")])


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "/a", "$a", "a" * 201, "a."]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(RefusedError, match="tag: expected letters"):
        check_name(name, "tag")


@pytest.mark.parametrize("name", ["final", "case_06", "1.2.840.113619.2", "Scan 3 (copy)", "Größe-1"])
def test_names_pass(name):
    check_name(name, "image")


@pytest.mark.parametrize(
    "settings",
    [
        {"device": CODE},
        {"max_epochs": CODE},
        {"max_epochs": True},
        {"val_split": "0.2"},
        {"pretrained": CODE},
        {"model_filename": "../../other.pt"},
        {"model_filename": ["/tmp/other.pt"]},
        {"result_extension": "/../../x.nii.gz"},
        {"label_tag": "../x"},
        {"label_tag": {"a": 1}},
        {"run_id": CODE},
        {"tracking": "/data/settings.json"},
        {"tracking": ["mlflow"]},
        {"gpus": "0;id"},
        {"logging": "../x"},
        {"bundle_path": "/data/scans"},
        {"image_path": "/etc/passwd"},
        {"session": {}},
        {"anything": {"deep": [1, {"deeper": CODE}]}},
        {"anything": {CODE: 1}},
        {"anything": "@network"},
        {"anything": "%train"},
    ],
)
def test_settings_that_could_be_code_or_paths_are_refused(settings):
    with pytest.raises(RefusedError, match=f"^{next(iter(settings))}: "):
        check_settings(settings)


def test_settings_of_viewers_pass():
    check_settings(
        {
            "device": ["NVIDIA H100 80GB HBM3:0", "cpu"],
            "model_filename": ["model.pt", "model_best.pt"],
            "result_extension": ".seg.nrrd",
            "result_dtype": "uint16",
            "label_tag": "final",
            "run_id": "",
            "tracking": ["None", "mlflow"],
            "gpus": "0,1",
            "max_epochs": 50,
            "val_split": 0.2,
            "pretrained": True,
            "multi_gpu": False,
            "label_info": [{"name": "left ventricle", "idx": 1}],
            "client_id": "user-xyz",
            "nothing": None,
        }
    )


def test_server_may_complete_a_request_with_what_clients_may_not_set():
    check_settings({"bundle_path": "/app/model/kcbac_mmwhs"}, is_from_client=False)
    with pytest.raises(RefusedError, match="device"):
        check_settings({"device": CODE}, is_from_client=False)


def test_file_has_to_lie_in_a_folder_of_the_server_links_followed(tmp_path):
    studies, other = tmp_path / "studies", tmp_path / "studies_of_others"
    for folder in (studies, other):
        folder.mkdir()
        (folder / "a.nii.gz").write_text("")
    (studies / "link.nii.gz").symlink_to(other / "a.nii.gz")
    check_file(str(studies / "a.nii.gz"), [tmp_path / "tmp", studies], "image")
    for path in (
        other / "a.nii.gz",
        studies / ".." / "studies_of_others" / "a.nii.gz",
        studies / "link.nii.gz",
    ):
        with pytest.raises(RefusedError, match="image: .* is not in the folders"):
            check_file(str(path), [studies], "image")


def test_pages_of_other_hosts_are_refused():
    names = ["127.0.0.1", "localhost"]
    check_origin("", names)
    check_origin("http://127.0.0.1:8000", names)
    for origin in ("http://evil.example", "http://127.0.0.1.evil.example", "null"):
        with pytest.raises(RefusedError, match="origin"):
            check_origin(origin, names)
