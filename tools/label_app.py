"""The MONAI Label app that serves the bundles; the tool copies it to ``main.py`` of the app's folder.

It is MONAI Label's sample app ``monaibundle`` with three differences: it starts without torchvision, weights
that do not fit the network are an error instead of a network with random parts, and what requests may say is
checked (``label_guard``). It runs in the environment of the server.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
import types
import uuid
import zipfile
from pathlib import Path
from typing import Any

from label_guard import RefusedError, check_file, check_name, check_settings


def _import_without_torchvision() -> None:
    # Two helpers for pictures of debug transforms are all that MONAI Label takes from torchvision.
    if importlib.util.find_spec("torchvision"):
        return
    names = ("torchvision", "torchvision.utils")
    stand_in = types.ModuleType("torchvision.utils")
    stand_in.make_grid = stand_in.save_image = None
    sys.modules.update(dict.fromkeys(names, stand_in))
    try:
        import monailabel.transform.post  # noqa: F401
    finally:
        for name in names:
            sys.modules.pop(name)


_import_without_torchvision()

from monailabel.datastore.dicom import DICOMWebDatastore  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.tasks.activelearning.first import First  # noqa: E402
from monailabel.tasks.activelearning.random import Random  # noqa: E402
from monailabel.tasks.infer.bundle import BundleInferTask  # noqa: E402
from monailabel.tasks.train.bundle import BundleTrainTask  # noqa: E402
from monailabel.utils.async_tasks.task import AsyncTask  # noqa: E402
from monailabel.utils.others.generic import get_bundle_models  # noqa: E402
from monailabel.utils.sessions import Sessions  # noqa: E402

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".tif")


class CheckedSessions(Sessions):
    """Uploaded images. Their names are given by the server, and only ZIP archives are unpacked."""

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """Find a session; None for anything that is not the name of one."""
        try:
            name = str(uuid.UUID(session_id))
        except (AttributeError, TypeError, ValueError):
            return None
        return super().get_session(name, update_ts, fetch_cache)

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> Any:
        """Keep an uploaded file, or folder of files; see the class for what is refused."""
        if uncompress and not zipfile.is_zipfile(data_file):
            raise RefusedError("uncompress: expected one ZIP archive; a TAR archive may write anywhere")
        return super().add_session(data_file, expiry, uncompress, session_id)


class ServedInference(BundleInferTask):
    """Inference of a bundle; closes the gaps between MONAI Label 0.8.5, MONAI 1.6.1, pictures and folders."""

    def run_pre_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        """Load and prepare an image."""
        # Spacingd takes every entry that begins with "image_" for meta data of the image.
        path = data.pop("image_path", None)
        data = super().run_pre_transforms(data, transforms)
        return data if path is None else {**data, "image_path": path}

    def run_post_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        """Turn the network's output into a mask (spatial...) on the grid of the image."""
        data = super().run_post_transforms(data, transforms)
        # MONAI Label takes the channel of a picture's mask for a third axis of space.
        if data[self.key_pred].ndim == data[self.key_image].ndim:
            data[self.key_pred] = data[self.key_pred][0]
        return data

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> Any:
        """Write the mask in the format of the image, or as the client asks for."""
        if Path(data.get("image_path", "")).is_dir() and not data.get("result_extension"):
            extension = extension or ".nii.gz"  # a DICOM series
        return super().writer(data, extension, dtype or data.get("result_dtype") or "uint8")


class BundleApp(MONAILabelApp):
    """All bundles named in the setting ``models``, each with inference and training."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.models = get_bundle_models(app_dir, conf)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="MONAI Label - medseg-bundles",
            description="Bundles: " + ", ".join(self.models),
        )

    def init_infers(self) -> dict[str, ServedInference]:
        """Inference of each bundle."""
        return {
            name: ServedInference(path, self.conf, load_strict=True) for name, path in self.models.items()
        }

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """Training of each bundle, from the weights that are served."""
        tasks = {
            name: BundleTrainTask(path, self.conf, load_strict=True) for name, path in self.models.items()
        }
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Any]:
        """How the next image to label is chosen."""
        return {"first": First(), "random": Random()}

    def init_datastore(self) -> Any:
        """The studies, with checks of all names that come from requests."""
        datastore = super().init_datastore()
        datastore.add_image = _checked_add_image(datastore.add_image)
        datastore.save_label = _checked_save_label(datastore.save_label)
        if isinstance(datastore, DICOMWebDatastore):  # a local one looks names up in its list of images
            datastore.get_image_uri = _checked_id(datastore.get_image_uri)
            datastore.get_label_uri = _checked_id(datastore.get_label_uri)
        return datastore

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment one image, which lies in the studies or was uploaded."""
        check_settings(request, is_from_client=False)
        image = request.get("image")
        if isinstance(image, str):
            self._check_image(image)
        label = request.get("label")
        if isinstance(label, str):
            check_file(label, self._folders(), "label")
        # The package comes with the bundles, which are loaded by now.
        from common.engines.input_errors import find_input_error

        try:
            if isinstance(image, str) and Path(image).is_dir():
                from common.data.dicom import single_series

                image = request["image"] = str(_innermost(Path(image)))
                single_series(image)
            return super().infer(request, datastore)
        except Exception as error:
            found = find_input_error(error)
            if found is None:
                raise
            raise RefusedError(str(found)) from error

    def infer_wsi(self, request: dict[str, Any], datastore: Any = None) -> None:
        """Slides are not served."""
        raise RefusedError("wsi: these bundles do not segment slides")

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train one bundle on the labels that were saved."""
        check_settings(request, is_from_client=False)
        # Viewers send the default, an empty text, which MONAI Label would look up in the configuration.
        return super().train({name: value for name, value in request.items() if value != ""})

    def _load_sessions(self, load: bool = False) -> CheckedSessions | None:
        return CheckedSessions(os.environ["MONAI_LABEL_SESSION_PATH"]) if load else None

    def _folders(self) -> tuple[str, ...]:
        # Uploads, and what MONAI Label itself writes, lie in the folder of temporary files.
        folders = [tempfile.gettempdir(), os.environ["MONAI_LABEL_SESSION_PATH"]]
        return (*folders, *([] if "://" in self.studies else [self.studies]))

    def _check_image(self, image: str) -> None:
        if Path(image).exists():
            check_file(image, self._folders(), "image")
        elif isinstance(self.datastore(), DICOMWebDatastore):
            check_name(image, "image")
        elif not self.datastore().get_image_uri(image):
            raise RefusedError(f"image: there is no {image!r} in the studies")


def _innermost(folder: Path) -> Path:
    # An archive usually holds the folder of the series, not the bare files.
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir() and not inside[0].is_symlink():
        folder = inside[0]
    return folder


def _checked_add_image(add_image: Any) -> Any:
    @functools.wraps(add_image)
    def checked(image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        check_name(image_id, "image")
        _check_suffix(image_filename)
        return add_image(image_id, image_filename, image_info)

    return checked


def _checked_save_label(save_label: Any) -> Any:
    @functools.wraps(save_label)
    def checked(image_id: str, label_filename: str, label_tag: str, *others: Any, **named: Any) -> str:
        check_name(image_id, "image")
        check_name(str(getattr(label_tag, "value", label_tag)), "tag")
        _check_suffix(label_filename, ".bin")
        return save_label(image_id, label_filename, label_tag, *others, **named)

    return checked


def _checked_id(find: Any) -> Any:
    @functools.wraps(find)
    def checked(name: str, *others: Any, **named: Any) -> str:
        check_name(name, "image")
        return find(name, *others, **named)

    return checked


def _check_suffix(file: str, *further: str) -> None:
    suffixes = (*IMAGE_SUFFIXES, *further)
    if not file.lower().endswith(suffixes):
        raise RefusedError(f"file: expected a name that ends in {', '.join(suffixes)}")


def _checked_task(run: Any) -> Any:
    @functools.wraps(run)
    def checked(method: str, request: Any = None, params: Any = None, **named: Any) -> Any:
        check_settings({**(request or {}), **(params or {})})
        return run(method, request=request, params=params, **named)

    return checked


# Training in the background takes the settings of a request to another process: they are checked before.
AsyncTask.run = staticmethod(_checked_task(AsyncTask.run))
