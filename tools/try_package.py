"""Packs a bundle with trained weights and tries the archive where nothing else of this repository is.

    python -m tools.try_package crossdomain_liver --model_dir /runs/liver/models --image /data/patient1 \
        --reference liver.nii.gz --transcript liver.md
    python -m tools.try_package m2snet_polyp --model_dir /runs/polyp/models --image 1.png --transcript p.md

Unzips the archive into a new folder, installs its requirements into a new virtual environment, segments the
image there with ``python -m monai.bundle``, reads the mask back with readers other than the writers, and
writes what was done and said as a transcript in which names stand for paths. For a DICOM series a DICOM SEG
is asked for and compared with the NIfTI mask. ``--environment`` takes an environment that exists, or makes
one to be used again; ``--label_server`` also asks a running MONAI Label server that serves the same weights.

A transcript appears only if every step worked; the exit code is 1 otherwise. Needs curl for MONAI Label.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.writers import atomic_path
from common.errors import InputError
from tools.label_client import Served, compare_with_label_server
from tools.mask_check import Comparison, check_seg, dice_to_reference, read_mask
from tools.transcript import Transcript

REPOSITORY = Path(__file__).resolve().parents[1]
# What writes a DICOM SEG, in the versions of constraints.txt; not among the requirements of a package.
DICOM_SEG_PACKAGES = ("highdicom", "pyjpegls")
INFERENCE = "Segment the image"
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ISOLATION = """
import importlib.util, importlib.metadata, sys
own = [name for name in ("common", "tools", "tests") if importlib.util.find_spec(name)]
installed = {item.name.lower(): item.version for item in importlib.metadata.distributions()}
print("Python", sys.version.split()[0], "with", len(installed), "packages:",
      ", ".join(f"{name} {installed[name]}" for name in sys.argv[1:] if name in installed))
sys.exit(f"found here: {', '.join(own)}" if own else None)
"""


@dataclass(frozen=True)
class Request:
    """What to try.

    Attributes:
        bundle: folder name under ``bundles``.
        model_dir: folder of a training, with ``model.pt`` and usually ``as_trained.json``.
        image: folder with one DICOM series, NIfTI file or picture.
        reference: mask of the image, NIfTI or picture, with the values of the bundle's output; or None.
        environment: folder of the virtual environment; None for a new one that is deleted.
        label_server: address of a MONAI Label server, or None.
    """

    bundle: str
    model_dir: Path
    image: Path
    reference: Path | None = None
    environment: Path | None = None
    label_server: str | None = None


def try_package(request: Request, work: Path, transcript: Transcript) -> list[tuple[str, str]]:
    """Do all steps.

    Args:
        request: what to try.
        work: empty folder outside of the repository, for archive, package and masks.
        transcript: takes the steps.

    Returns:
        The figures: name and value.

    Raises:
        InputError: a step fails, or two masks that have to be equal are not.
    """
    package = work / "elsewhere" / request.bundle
    environment = request.environment or work / "environment"
    transcript.names.update(_names(request, work, package, environment))
    existed = environment.exists()
    archive = unpack(request, work, transcript)
    python = install(package, environment, request.image.is_dir(), transcript)
    mask, seg = infer(request, package, python, transcript)
    comparison = read_back(request, mask, seg, transcript)
    settings = _settings(package)
    figures = [
        ("package", f"{archive.name}, {archive.stat().st_size / 1e6:.1f} MB"),
        ("weights", f"SHA-256 {_checksum(package / 'models' / 'model.pt')}"),
        ("environment", "used again" if existed else "new"),
        ("inference", transcript.seconds[INFERENCE]),
        ("voxels", str(comparison.voxels)),
    ]
    if seg is not None:
        figures.append(("differing voxels", str(comparison.different)))
    if request.reference is not None:
        scores = dice_to_reference(mask, request.reference, settings["class_names"])
        text = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        transcript.note("Compare with the reference", [f"Dice to REFERENCE: {text}"])
        figures.append(("Dice", text))
    if request.label_server is not None:
        served = Served(request.label_server, request.bundle)
        answer = compare_with_label_server(served, request.image, mask, work, transcript)
        figures.append(("differing voxels of MONAI Label", str(answer.different)))
    return figures


def unpack(request: Request, work: Path, transcript: Transcript) -> Path:
    """Pack the bundle and unzip the archive into ``work/elsewhere``; the archive."""
    command = [sys.executable, "tools/package_bundle.py", request.bundle, "--model_dir", request.model_dir]
    transcript.run("Pack", [*command, "--output_dir", work / "dist"], REPOSITORY)
    (archive,) = (work / "dist").glob("*.zip")
    unzip = [sys.executable, "-m", "zipfile", "-e", archive, work / "elsewhere"]
    transcript.run("Unzip elsewhere", unzip, work)
    return archive


def install(package: Path, environment: Path, with_dicom: bool, transcript: Transcript) -> Path:
    """Make the environment unless it exists, and install what the package asks for; its Python."""
    python = environment / "bin" / "python"
    if not python.exists():
        command = [sys.executable, "-m", "venv", environment]
        transcript.run("Make a fresh environment", command, package)
    pip = [python, "-m", "pip", "install", "--quiet"]
    transcript.run("Install the requirements", [*pip, "-r", "requirements.txt"], package, keep="ERROR")
    if with_dicom:
        command = [*pip, *_pinned(DICOM_SEG_PACKAGES), "-c", "requirements.txt"]
        transcript.run("Install what writes DICOM SEG", command, package, keep="ERROR")
    # From the folder of the environment: in that of the package, its own `common` would be found.
    command = [python, "-c", ISOLATION, "torch", "monai", "numpy", "highdicom"]
    shown = f"{python} -c '(looks for modules of the repository)'"
    transcript.run("Nothing of the repository is there", command, environment, shown=shown)
    return python


def infer(request: Request, package: Path, python: Path, transcript: Transcript) -> tuple[Path, Path | None]:
    """Segment the image in the package's folder; the mask, and the DICOM SEG if the image is a series.

    Raises:
        InputError: there is not exactly one mask, or no DICOM SEG of a series.
    """
    output = package.parent / "masks"
    files = ["configs/inference.json"]
    files += ["models/as_trained.json"] if (package / "models" / "as_trained.json").is_file() else []
    command = [python, "-m", "monai.bundle", "run", "inferring", "--config_file", str(files)]
    command += ["--dataset_dir", request.image, "--output_dir", output]
    suffix = ".png"
    if request.image.is_dir() or request.image.name.endswith(NIFTI_SUFFIXES):
        suffix = ".nii.gz"
    if request.image.is_dir():
        command += ["--dicom_seg", "True"]
    transcript.run(INFERENCE, command, package, keep=r"loaded weights|wrote \d|^  \S|WARNING.*mask")
    masks, segs = list(output.glob(f"*_seg{suffix}")), list(output.glob("*_seg.dcm"))
    if len(masks) != 1 or (request.image.is_dir() and len(segs) != 1):
        found = ", ".join(sorted(file.name for file in output.glob("*"))) or "none"
        raise InputError(f"{output}: expected one mask and, of a series, one DICOM SEG, found {found}")
    return masks[0], segs[0] if segs else None


def read_back(request: Request, mask: Path, seg: Path | None, transcript: Transcript) -> Comparison:
    """Read the results again, with other readers than wrote them.

    Raises:
        InputError: a DICOM SEG is not the mask, or a mask is not on the grid of its image.
    """
    if seg is not None:
        comparison = check_seg(seg, mask, request.image)
        transcript.note("Read the DICOM SEG back (pydicom) and compare with the NIfTI mask", comparison.lines)
    else:
        values, affine = read_mask(mask)
        image, image_affine = read_mask(request.image)
        if values.shape != image.shape[: values.ndim] or (affine is None) != (image_affine is None):
            raise InputError(f"{mask}: expected the size {image.shape} of the image, found {values.shape}")
        voxels = int((values > 0).sum())
        size = " x ".join(map(str, values.shape))
        comparison = Comparison(voxels, 0, [f"{size}, as the image, {voxels} above 0"])
        transcript.note("Read the mask back", comparison.lines)
    if comparison.different:
        raise InputError(f"{seg}: expected the voxels of {mask}, found {comparison.different} others")
    return comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Try a package; the exit code."""
    given = vars(_parser().parse_args(arguments))
    # The commands run in other folders than this one.
    options = {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}
    target, keep = options.pop("transcript"), options.pop("work_dir")
    request, transcript = Request(**options), Transcript()
    try:
        _check(request)
        with _work_folder(keep) as work:
            figures = try_package(request, Path(work).resolve(), transcript)
        with atomic_path(target) as temporary:
            temporary.write_text(as_page(request.bundle, figures, transcript), encoding="utf-8")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {target}")
    return 0


def as_page(bundle: str, figures: Sequence[tuple[str, str]], transcript: Transcript) -> str:
    """The transcript in Markdown: figures, then steps."""
    rows = "\n".join(f"| {name} | {transcript.renamed(value)} |" for name, value in figures)
    return f"## `{bundle}`\n\n| | |\n|---|---|\n{rows}\n\n" + "\n".join(transcript.entries)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="folder name under bundles/")
    parser.add_argument("--model_dir", type=Path, required=True, help="folder of a training, with model.pt")
    parser.add_argument("--image", type=Path, required=True, help="DICOM folder, NIfTI file or picture")
    parser.add_argument("--transcript", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--reference", type=Path, help="mask of the image, for Dice")
    parser.add_argument("--environment", type=Path, help="virtual environment to use again, made if absent")
    parser.add_argument("--label_server", help="such as http://127.0.0.1:8000, with the same weights")
    parser.add_argument("--work_dir", type=Path, help="new folder for package and masks, to keep them")
    return parser


def _check(request: Request) -> None:
    """Raise InputError for what would fail after minutes."""
    wanted = {"--image": request.image, "--reference": request.reference}
    for option, path in wanted.items():
        if path is not None and not path.exists():
            raise InputError(f"{option} {path}: expected a file or folder, found none")
    if request.label_server and not request.label_server.startswith(("http://", "https://")):
        raise InputError(f"--label_server {request.label_server}: expected http://... or https://...")


def _work_folder(kept: Path | None) -> AbstractContextManager[str | Path]:
    place = (kept or Path(tempfile.gettempdir())).resolve()
    if place.is_relative_to(REPOSITORY):
        raise InputError(f"--work_dir {place}: expected a folder outside of the repository")
    if kept is None:
        return tempfile.TemporaryDirectory(prefix="try_package_")
    if kept.exists():
        raise InputError(f"--work_dir {kept}: expected a new folder, found one that exists")
    kept.mkdir(parents=True)
    return nullcontext(kept)


def _names(request: Request, work: Path, package: Path, environment: Path) -> dict[str, str]:
    places: dict[Path | None, str] = {
        work: "WORK",
        work / "elsewhere": "ELSEWHERE",
        package: "PACKAGE",
        environment: "ENVIRONMENT",
        request.model_dir: "MODELS",
        request.image: "IMAGE",
        request.reference: "REFERENCE",
        REPOSITORY: "REPOSITORY",
        Path.home(): "HOME",
    }
    names = {sys.executable: "python"}
    for path, name in places.items():
        names |= {str(form): name for form in (path, path and path.resolve()) if form is not None}
    return names


def _pinned(names: Sequence[str]) -> list[str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split("==")[0] in names]


def _settings(package: Path) -> dict[str, Any]:
    """Settings of inference and, over them, of the training."""
    files = (package / "configs" / "inference.json", package / "models" / "as_trained.json")
    settings: dict[str, Any] = {}
    for file in files:
        settings |= json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return settings


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
