"""The tutorial: trains, evaluates and segments on generated hearts, and shows the scores.

    python tools/demo.py

Every command is printed before it runs and can be pasted into a shell in the root of the repository. All
files go to ``demo/``. A GPU is used where there is one.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OUTPUT_DIR = Path("demo/output")
CONFIGS = "bundles/kcbac_mmwhs/configs"
WHERE = (
    "--bundle_root bundles/kcbac_mmwhs --output_dir demo/output --model_dir demo/output/models"
    " --dataset_dir demo/mmwhs"
)
# A coarse grid and a window on contrast and soft tissue, for training and evaluation alike.
GRID = ' --spacing_mm "[2.5,2.5,2.5]" --intensity_range "[-200,600]"'

STEPS = {
    "Generate 8 labeled hearts and an unlabeled one, in the layout of MM-WHS 2017": (
        "python -m common.data.phantoms write_mmwhs --dataset_dir demo/mmwhs --num_cases 8 --num_test 1"
    ),
    "Train a small kCBAC-Net": (
        "python -m monai.bundle run training"
        f" --config_file \"['{CONFIGS}/train.json','{CONFIGS}/preset_laptop.json']\" {WHERE}"
        f"{GRID} --base_loss dice_ce --max_epochs 12 --val_interval 6 --flip_prob 0.0 --rotate_prob 0.0"
    ),
    "Evaluate it on the cases held out of training": (
        "python -m monai.bundle run evaluating"
        f" --config_file \"['{CONFIGS}/train.json','{CONFIGS}/preset_laptop.json',"
        f"'{CONFIGS}/evaluate.json']\" {WHERE}{GRID}"
    ),
    "Segment the unlabeled heart": (
        "python -m monai.bundle run inferring"
        f" --config_file \"['{CONFIGS}/inference.json','demo/output/models/as_trained.json']\""
        f" {WHERE}/ct_test/ct_test_2001_image.nii.gz"
    ),
}


def main() -> int:
    """Run all steps and show their results; return the exit code of the first step that fails."""
    for number, (title, line) in enumerate(STEPS.items(), start=1):
        print(f"\n[{number}/{len(STEPS)}] {title}", flush=True)
        code = _run(line)
        if code != 0:
            print(
                f"\ndemo: step {number} failed with exit code {code}, see its message above", file=sys.stderr
            )
            return code
    return _show_results(REPOSITORY / OUTPUT_DIR)


def _run(line: str) -> int:
    python = Path(sys.executable)
    shown = python.relative_to(REPOSITORY) if python.is_relative_to(REPOSITORY) else python
    print(line.replace("python", str(shown), 1), flush=True)
    start_s = time.monotonic()
    code = subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=REPOSITORY, check=False).returncode
    print(f"({time.monotonic() - start_s:.0f} s)", flush=True)
    return code


def _show_results(folder: Path) -> int:
    report, pictures = folder / "report.md", sorted(folder.glob("pictures/*.png"))
    if not report.is_file() or not pictures:
        print(f"demo: expected report.md and pictures/*.png in {folder}", file=sys.stderr)
        return 1
    print(f"\n{report.read_text(encoding='utf-8')}")
    print(f"Scores:  {report}")
    for picture in pictures:
        print(f"Picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
