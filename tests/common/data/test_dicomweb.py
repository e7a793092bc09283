import logging
import socket
import sys
import time

import numpy as np
import pytest

from common.data import dicomweb
from common.data.dicom import single_series
from common.data.dicom_sources import download_series
from common.data.dicomweb import client_of, parts_of_address
from common.data.image_files import read_image
from common.data.inputs import find_images
from common.errors import InputError
from tests.helpers.dicom import write_series
from tests.helpers.dicomweb_server import serve

STUDY = "/studies/1.2"


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (extra dicom)")
    server_folder = tmp_path / "server"
    write_series(server_folder)
    with serve(server_folder) as running:
        yield running


def more_series(server, tmp_path, **changes):
    write_series(tmp_path / "more", (0.0, 1.0), series="9.9", **changes)
    server.instances += [path.read_bytes() for path in (tmp_path / "more").iterdir()]


@pytest.mark.parametrize("address", [STUDY, f"{STUDY}/", f"{STUDY}/series/1.2.3"])
def test_downloaded_series_is_the_one_on_the_server(server, tmp_path, address):
    (found,) = find_images(server.service + address)
    assert found["id"] == "1_2_3"
    expected = read_image(tmp_path / "server")
    image = read_image(found["image"])
    assert np.array_equal(image, expected)
    assert np.array_equal(image.affine, expected.affine)


def test_address_with_the_scheme_dicomweb_on_this_machine(server):
    assert len(single_series(download_series(server.service.replace("http", "dicomweb", 1) + STUDY))) == 4


def test_folder_is_private(server):
    folder = download_series(server.service + STUDY)
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_several_series_are_named_or_chosen(server, tmp_path):
    more_series(server, tmp_path)
    with pytest.raises(InputError, match="expected one series") as error:
        download_series(server.service + STUDY)
    assert "1.2.3 (CT, series 1.2.3, 4 slices), 9.9 (CT, series 9.9, 2 slices)" in str(error.value)
    assert "choose one with series_uid" in str(error.value)
    assert len(single_series(download_series(server.service + STUDY, "9.9"))) == 2
    assert len(single_series(download_series(f"{server.service}{STUDY}/series/9.9"))) == 2
    with pytest.raises(InputError, match=r"expected the series 7\.7, found 1\.2\.3"):
        download_series(server.service + STUDY, "7.7")
    with pytest.raises(InputError, match=r"series of the address, found series_uid 1\.2\.3"):
        download_series(f"{server.service}{STUDY}/series/9.9", "1.2.3")


def test_segmentations_of_the_study_are_left_aside(server, tmp_path):
    more_series(server, tmp_path, Modality="SEG")
    assert len(single_series(download_series(server.service + STUDY))) == 4


def test_lost_slices_are_noticed(server):
    server.lost = 1
    with pytest.raises(InputError, match="expected 4 slices as announced, received 3"):
        download_series(server.service + STUDY)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, r"put user and password into ~/\.netrc"), (404, "no such study or service"), (500, "Internal")],
)
def test_refusal_of_the_server(server, status, advice):
    server.status = status
    with pytest.raises(InputError, match=rf"{STUDY}: the DICOMweb server refused, {status} .*{advice}"):
        download_series(server.service + STUDY)


def test_study_that_is_not_there(server):
    with pytest.raises(InputError, match=r"expected one series of DICOM images, found none$"):
        download_series(server.service + "/studies/7.7")


@pytest.mark.parametrize("body", [b"<html>", b'[{"00080060": {"vr": "CS"}}]', b'["x"]'])
def test_something_else_than_dicomweb(server, body):
    server.body = body
    with pytest.raises(InputError, match=f"{server.service}{STUDY}: "):
        download_series(server.service + STUDY)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uid_that_is_a_path(server):
    server.body = b'[{"0020000E": {"vr": "UI", "Value": ["../../x"]}}]'
    with pytest.raises(InputError, match=r"SeriesInstanceUID '\.\./\.\./x'"):
        download_series(server.service + STUDY)


def test_connection_refused_is_reported_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        start_s = time.monotonic()
        with pytest.raises(InputError, match=r"no DICOMweb server answers \(.*Connection refused\)$"):
            download_series(f"http://127.0.0.1:{unused.getsockname()[1]}/dicom-web{STUDY}")
    assert time.monotonic() - start_s < 2


def test_silent_server(server, monkeypatch):
    monkeypatch.setattr(dicomweb, "TIMEOUT_S", (1.0, 0.1))
    server.delay_s = 0.5
    with pytest.raises(InputError, match=r"no DICOMweb server answers \(.*timed out"):
        download_series(server.service + STUDY)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(InputError, match=r'dicomweb-client: expected this package.*"\.\[dicom\]"'):
        download_series("http://127.0.0.1:1/studies/1.2")


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("dicomweb://pacs.example/rs/studies/1.2", "https://pacs.example/rs"),
        ("dicomweb://localhost:8042/rs/studies/1.2", "http://localhost:8042/rs"),
        ("DICOMweb://[::1]:8042/rs/studies/1.2", "http://[::1]:8042/rs"),
        ("https://pacs.example/studies/1.2", "https://pacs.example"),
    ],
)
def test_scheme(address, service):
    assert parts_of_address(address) == (service, "1.2", None)


@pytest.mark.parametrize(
    "address",
    [
        "http://pacs.example/rs",
        "http://pacs.example/studies/..%2f",
        "http://pacs.example/studies/1.2/series/",
        "http://pacs.example/studies/1.2/instances/3",
        "http://pacs.example/studies/1.2?x=/studies/1",
        "http:///studies/1.2",
        f"http://pacs.example/studies/{'1' * 65}",
    ],
)
def test_other_addresses(address):
    with pytest.raises(InputError, match="expected an address that ends in /studies/<uid>"):
        parts_of_address(address)


def test_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(InputError, match=r"pacs\.example: .* ~/\.netrc") as error:
        parts_of_address("https://ann:secret@pacs.example/studies/1.2")
    assert "secret" not in str(error.value)


def test_login_comes_from_netrc(tmp_path, monkeypatch, server):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert client_of(server.service)._session.auth == ("ann", "secret")


def test_unencrypted_way_to_another_machine_is_warned_of(caplog):
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (extra dicom)")
    with caplog.at_level(logging.WARNING):
        client_of("https://pacs.example/rs")
        assert caplog.text == ""
        client_of("http://pacs.example/rs")
    assert "patient data travel unencrypted" in caplog.text
