"""This project's own tests: its images are sound, its experiments can be trained, and what they leave can be used.

They take `images/` where pictures of yours are there, and some that are drawn here as long as they are not.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
# your images, and your experiments' files, one short training each
IMAGES, EXPERIMENTS = ROOT / "images", sorted((ROOT / "experiments").glob("first*.yml"))
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.enable_progress_bar=false")


def draw(folder: Path) -> Path:
    "Bars that lie and bars that stand: something to learn, in a second."
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for name in ("lying", "standing"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 20), dtype=np.uint8)
                pixels[rng.integers(3, 15) :][:3] = 250
                Image.fromarray(pixels if name == "lying" else pixels.T).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return IMAGES if (IMAGES / "train").is_dir() else draw(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="session", params=EXPERIMENTS, ids=lambda path: path.stem)
def trained(request, images, program, tmp_path_factory) -> Path:
    "The run folder of a short training."
    runs = tmp_path_factory.mktemp("runs")
    done = program("train", request.param, f"datamodule.path={images}", f"paths.runs={runs}", *SHORT)
    assert done.returncode == 0, done.stderr
    [best] = runs.rglob("best.ckpt")
    return best.parents[1]


def test_the_images_can_be_read(images, program):
    looked = program("dataset", "inspect", images)
    assert looked.returncode == 0, looked.stderr
    assert all(folder.name in looked.stdout for folder in (images / "train").iterdir() if folder.is_dir())


def test_a_run_leaves_its_record(trained):
    assert {"config.yaml", "metrics.csv", "provenance.json"} <= {path.name for path in trained.iterdir()}


def test_a_checkpoint_can_be_evaluated(trained, program):
    done = program("evaluate", trained, "split=val", "trust=true")
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr


def test_the_exported_model_says_what_a_picture_shows(trained, images, program):
    pytest.importorskip("onnxruntime", reason="to export, the extra `export` is needed")
    made = program("export", trained, "trust=true", "calibrate=null")
    assert made.returncode == 0, made.stderr  # it has answered as the checkpoint does, or it would not be there
    picture = next(path for path in (images / "train").rglob("*") if path.is_file())
    told = program("predict", trained / "model.onnx", picture)
    assert told.returncode == 0 and str(picture.name) in told.stdout, told.stdout + told.stderr
