"""Pictures of cases: which files, which panels, which slice, which colors."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib import colormaps
from matplotlib.image import imread
from monai.data import MetaTensor
from monai.networks import one_hot

from common.engines import pictures
from common.engines.panels import draw, planar_views, volume_views
from common.engines.pictures import CasePictures, label_map
from common.errors import InputError
from tests.helpers.evaluation import evaluate, located

ORANGE = colormaps["tab10"](1)[:3]


def box(shape, *corners, value=1):
    """Label map (1, *shape) with a box from the first to (excluding) the second corner."""
    labels = torch.zeros(1, *shape)
    labels[(0, *(slice(low, high) for low, high in zip(*corners)))] = value
    return labels


def volume_case(name="case"):
    labels = box((8, 10, 6), (2, 3, 1), (6, 8, 4))
    return {"image": located(labels, name=name), "label": located(labels, name=name)}


def titles(figure):
    return [panel.get_title() for panel in figure.axes]


def test_first_cases_are_drawn_by_name(tmp_path):
    cases = [volume_case(name) for name in ("a.1", "b", "c")]
    evaluate(cases, 2, [CasePictures(tmp_path, max_cases=2, class_names=["node"])], batch_size=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1.png", "b.png"]
    height, width, _ = imread(tmp_path / "b.png").shape
    assert height > 900
    assert width > 900


def test_zero_cases_draw_nothing(tmp_path):
    evaluate([volume_case()], 2, [CasePictures(tmp_path, max_cases=0)])
    assert not list(tmp_path.iterdir())


def test_same_name_in_two_folders_gives_two_pictures(tmp_path):
    evaluate([volume_case("a"), volume_case("a")], 2, [CasePictures(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_2.png"]


def test_only_the_first_process_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    evaluate([volume_case()], 2, [CasePictures(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_inference_output_without_label(tmp_path):
    image = MetaTensor(torch.rand(1, 8, 9, 7), meta={"filename_or_obj": "/data/1.2.840"})
    pred = MetaTensor(box((8, 9, 7), (2, 2, 2), (5, 5, 5), value=600), meta=image.meta)
    engine = Engine(lambda engine, batch: [{"image": image, "pred": pred}])
    CasePictures(tmp_path, codes=[500, [600, 601]]).attach(engine)
    engine.run([0])
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.840.png"]


def test_label_maps_of_one_hot_masks_and_of_codes():
    labels = torch.tensor([[[0.0, 1.0, 2.0]]])
    assert label_map(one_hot(labels, 3, dim=0)).tolist() == [[[0, 1, 2]]]
    assert label_map(labels).tolist() == [[[0, 1, 2]]]
    assert label_map(torch.tensor([[[0, 205, 420]]]), codes=[[420, 421], 205]).tolist() == [[[0, 2, 1]]]
    goals = {255: 0, 0: 1, 80: 2, 160: 3}
    assert label_map(torch.tensor([[[255, 0, 160, 80]]]), codes=goals).tolist() == [[[0, 1, 3, 2]]]
    read_from_json = {"255": 0, "0": 1}
    assert label_map(torch.tensor([[[255.0, 0.0, 7.0]]]), codes=read_from_json).tolist() == [[[0, 1, 0]]]


def test_masks_are_found_by_their_names(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save_picture", lambda rows, names, path: drawn.append(rows[0].masks))
    output = {
        "image": torch.rand(1, 4, 3),
        "soft": torch.rand(1, 4, 3),
        "binary": box((4, 3), (0, 0), (2, 1)),
        "truth": box((4, 3), (0, 0), (4, 1)),
    }
    engine = Engine(lambda engine, batch: [output])
    CasePictures(tmp_path, prediction_key="binary", reference_key="truth").attach(engine)
    engine.run([0])
    assert [(mask.sum(), title) for title, mask in drawn[0].items()] == [(4, "reference"), (2, "prediction")]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mask", r"prediction_key: expected an entry of the output \(image, soft\), found 'mask'"),
        ("soft", "soft: expected class indices or a one-hot mask, found values between whole numbers"),
    ],
)
def test_output_without_mask_is_refused(tmp_path, key, message):
    output = {"image": torch.rand(1, 4, 3), "soft": torch.rand(1, 4, 3), "label": None}
    engine = Engine(lambda engine, batch: [output])
    CasePictures(tmp_path, prediction_key=key).attach(engine)
    with pytest.raises(InputError, match=message):
        engine.run([0])


def test_volume_is_cut_through_the_center_of_the_reference():
    shape = (8, 10, 6)
    image = torch.arange(480.0).reshape(1, *shape)
    reference, prediction = box(shape, (1, 2, 3), (4, 5, 6)), box(shape, (5, 5, 0), (8, 8, 3))
    sagittal, coronal, axial = volume_views(located(image), located(prediction), located(reference))
    # Center of the reference: voxel (2, 3, 4). Rows run from the top: superior or anterior first.
    low, high = np.percentile(image[0, 2], (0.5, 99.5))
    expected = ((image[0, 2].numpy() - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(sagittal.image, expected.T[::-1], atol=1e-4)
    # In RAS x grows to the right of the patient, which radiologists see on the left.
    for view, plane in (
        (sagittal, reference[0, 2]),
        (coronal, reference[0, :, 3].flip(0)),
        (axial, reference[0, ..., 4].flip(0)),
    ):
        assert np.array_equal(view.masks["reference"], plane.numpy().T[::-1])
        assert not view.masks["prediction"].any()


def test_volume_without_reference_is_cut_through_the_prediction_and_empty_ones_in_the_middle():
    shape = (8, 10, 6)
    image, empty = located(torch.rand(1, *shape)), located(torch.zeros(1, *shape))
    views = volume_views(image, located(box(shape, (5, 5, 0), (8, 8, 3))), None)
    assert list(views[0].masks) == ["prediction"]
    assert all(view.masks["prediction"].sum() == 9 for view in views)
    assert [view.image.shape for view in volume_views(image, empty, empty)] == [(6, 10), (6, 8), (10, 8)]


def test_pixels_have_the_aspect_of_the_voxels():
    mask = located(box((4, 4, 4), (1, 1, 1), (3, 3, 3)), spacing_mm=[0.5, 1.0, 3.0])
    aspects = [view.aspect for view in volume_views(mask, mask, None)]
    assert aspects == pytest.approx([3.0 / 1.0, 3.0 / 0.5, 1.0 / 0.5])


def test_image_on_another_grid_is_brought_to_the_prediction():
    """The image was resampled to 1 mm and reoriented; the masks are on the native grid, 2 mm and flipped."""
    native = box((8, 8, 8), (1, 2, 3), (3, 5, 7))
    flipped_mm2 = torch.diag(torch.tensor([-2.0, -2.0, 2.0, 1.0], dtype=torch.float64))
    flipped_mm2[:2, 3] = 14.0
    mask = MetaTensor(native, affine=flipped_mm2)
    fine = native.flip(1, 2).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    ras_mm1 = torch.eye(4, dtype=torch.float64)
    ras_mm1[:3, 3] = -0.5  # 1 mm voxels begin at the same corner as 2 mm voxels centered at 0
    for view in volume_views(MetaTensor(fine, affine=ras_mm1), mask, None):
        assert view.masks["prediction"].any()
        np.testing.assert_allclose(view.image, view.masks["prediction"], atol=1e-3)


def test_flat_color_image_is_resized_and_upright():
    image = torch.zeros(3, 4, 2)
    image[0, :, 0] = 1.0  # red where y = 0, the top row
    prediction = box((8, 4), (0, 0), (8, 2))
    (view,) = planar_views(image, prediction, prediction)
    assert view.image.shape == (4, 8, 3)
    assert view.image[0, 0].tolist() == [1, 0, 0]
    assert view.image[-1, 0].tolist() == [0, 0, 0]
    assert view.masks["reference"][:2].all()
    assert not view.masks["prediction"][2:].any()


def test_figure_has_panels_fixed_colors_and_a_legend():
    prediction = box((6, 5), (2, 1), (4, 3), value=2)
    views = planar_views(torch.zeros(1, 6, 5), prediction, prediction)
    figure = draw(views, ["left", "right"])
    assert titles(figure) == ["image", "reference", "prediction"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right"]
    pixels = figure.axes[2].images[0].get_array()
    assert pixels[1, 2].tolist() == pytest.approx([0.5 * part for part in ORANGE])
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert titles(draw(planar_views(torch.zeros(1, 6, 5), prediction, None))) == ["image", "prediction"]


def test_eleven_classes_have_eleven_colors():
    prediction = torch.arange(12.0).reshape(1, 12, 1)
    figure = draw(planar_views(torch.zeros(1, 12, 1), prediction, None))
    colors = {tuple(patch.get_facecolor()) for patch in figure.legends[0].get_patches()}
    assert len(colors) == 11
