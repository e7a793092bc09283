"""Figures inside the report page: box plots as text, pictures as data."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.engines.report_figures import MAX_PICTURE_EDGE_PX, MAX_POINTS, box_plot, picture_uri

NUMBERS = np.array([1.0, 2.0, 4.0, 9.0])


def texts(svg):
    return [element.text for element in ET.fromstring(svg.replace("xlink:", "")).iter("text")]


def test_boxes_are_labeled_and_names_are_no_formulas():
    svg = box_plot({"$x_1$ <b>": NUMBERS, "RV": NUMBERS[:1], "absent": NUMBERS[:0]}, 'HD "$mm$"', "p")
    assert {"$x_1$ <b>", "RV", "absent", 'HD "$mm$"'} <= set(texts(svg))


def test_long_names_leave_room_for_the_boxes():
    names = ["left ventricular myocardium, CT", "left ventricular myocardium, MR", "s" * 22]
    svg = box_plot(dict.fromkeys(names, NUMBERS), "m" * 500, "p")
    assert {"left ventr\u2026ardium, CT", "left ventr\u2026ardium, MR", "s" * 22} <= set(texts(svg))


def test_lines_have_the_color_of_the_text():
    svg = box_plot({"LV": NUMBERS}, "Dice", "p")
    colors = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert "currentColor" in colors
    assert not {color for color in colors if color.startswith("#")} - {"#4a86c5"}


def test_ids_of_two_figures_differ_and_references_find_them():
    first, second = (box_plot({"LV": NUMBERS}, "Dice", prefix) for prefix in ("p0", "p1"))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) <= ids[0]


def test_settings_of_matplotlib_stay_as_they_were():
    before = dict(matplotlib.rcParams)
    box_plot({"LV": NUMBERS}, "Dice", "p")
    assert dict(matplotlib.rcParams) == before


def test_many_values_are_drawn_by_their_outliers_only():
    # 0 .. 1 in even steps and one value far away: one dot instead of one per value.
    values = np.append(np.linspace(0, 1, MAX_POINTS), 9.0)
    assert box_plot({"LV": values[1:]}, "Dice", "p").count("<use") - MAX_POINTS == pytest.approx(
        box_plot({"LV": values}, "Dice", "p").count("<use") - 1, abs=3
    )


def decoded(uri):
    kind, content = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_large_picture_shrinks_and_keeps_its_colors(tmp_path):
    Image.new("RGB", (2 * MAX_PICTURE_EDGE_PX, 300), (200, 30, 60)).save(tmp_path / "a.png")
    kind, picture = decoded(picture_uri(tmp_path / "a.png"))
    assert (kind, picture.size) == ("jpeg", (MAX_PICTURE_EDGE_PX, 150))
    np.testing.assert_allclose(picture.getpixel((5, 5)), (200, 30, 60), atol=3)


def test_noise_becomes_jpeg_and_a_small_file_stays(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "flat.png")
    assert decoded(picture_uri(tmp_path / "noise.png"))[0] == "jpeg"
    assert picture_uri(tmp_path / "flat.png").startswith("data:image/png")
    assert decoded(picture_uri(tmp_path / "flat.png"))[1].size == (200, 200)
