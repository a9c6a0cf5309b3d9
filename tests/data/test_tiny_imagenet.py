import pytest
import torch
from PIL import Image

from lit_distill.data import TinyImageNet
from lit_distill.errors import InputError

CLASSES = ("n01443537", "n01629819", "n01641577")


@pytest.fixture
def root(tmp_path):
    """Three classes in the layout of the archive; the colour of a test image is that of its class."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, name in enumerate(CLASSES):
        (root / "train" / name / "images").mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
        for i in range(5):
            Image.new("RGB", (64, 64), (80 * label, i, 0)).save(root / "train" / name / "images" / f"{name}_{i}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    for i, label in enumerate((2, 0, 0, 1)):
        Image.new("RGB", (64, 64), (80 * label, 0, 0)).save(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "test" / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "test" / "images" / "test_0.JPEG")
    return root


@pytest.mark.parametrize("above", [True, False])
def test_test_set_is_the_annotated_validation_set(root, above):
    data = TinyImageNet(root=str(root.parent if above else root), val_fraction=0.2)
    data.setup()
    assert (data.num_classes, data.input_shape) == (3, (3, 64, 64))
    assert data.parts["test"].images.targets.tolist() == [2, 0, 0, 1]
    (batch,) = data.test_dataloader()
    red = batch.x[:, 0].mean((1, 2)) * data.std[0] + data.mean[0]
    torch.testing.assert_close(red, batch.target * 80 / 255, atol=0.01, rtol=0)
    assert len(data.parts["val"]) == 3
    assert len(data.parts["train"]) == 12


def test_rearranged_validation_set_is_read_too(root):
    (root / "val" / "val_annotations.txt").unlink()
    for path in (root / "val" / "images").iterdir():
        path.unlink()
    (root / "val" / "images").rmdir()
    (root / "val" / CLASSES[1]).mkdir()
    Image.new("RGB", (64, 64)).save(root / "val" / CLASSES[1] / "a.JPEG")
    data = TinyImageNet(root=str(root))
    data.setup("test")
    assert data.parts["test"].images.targets.tolist() == [1]


@pytest.mark.parametrize("line", ["val_0.JPEG\tn00000000\t0\t0\t1\t1", "val_0.JPEG", ""])
def test_annotations_are_checked(root, line):
    path = root / "val" / "val_annotations.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"^root: line 5 of .*val_annotations.txt names no class of .*train$"):
        TinyImageNet(root=str(root)).setup("test")
