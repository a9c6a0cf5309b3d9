"""Matching of mean features (IDC)."""

from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.core.taps import Tap, submodule
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.objectives.gradient import difference
from lit_distill.dataset.step import Purpose, Step
from lit_distill.errors import InputError


class FeatureMatching(Objective):
    r"""Synthetic images whose features have, layer by layer, the same mean as those of the real images of their class.

    Paper: Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC), ICML 2022,
    https://arxiv.org/abs/2205.14959

    .. math:: \sum_c \sum_l d\Big( \frac{1}{m} \sum_j f_l(s_{c,j}), \; \frac{1}{n} \sum_i f_l(x_{c,i}) \Big)

    with sums of squares or of absolute differences. It is the authors' alternative to gradients
    (:class:`GradientMatching`). The network answers in eval mode, whose features are those of training mode where it
    has no BatchNorm.

    Args:
        layers: Paths of the layers. Default: ``blocks.0``, ``blocks.1``, ... of a :class:`CondensationConvNet`; the
            authors take the last of them.
        distance: ``squares`` (``mse``) or ``absolute`` (``l1``) differences.

    Raises:
        InputError: When the network has no such layers.

    Code: ``snu-mllab/Efficient-Dataset-Condensation:condense.py`` (matchloss, ``match`` feat)
    """

    def __init__(self, layers: list[str] | None = None, distance: Literal["squares", "absolute"] = "squares") -> None:
        super().__init__()
        if distance not in ("squares", "absolute"):
            raise InputError(f"distance must be squares or absolute, not {distance!r}")
        self.layers = layers
        self.distance = distance

    def forward(self, step: Step, network: nn.Module) -> Tensor:
        """The distance between class means, summed over layers and this process's classes."""
        real, synthetic = step.real.images, step.synthetic.decode(step.classes).images
        if step.augment is not None:
            drawn = step.augment.draw([step.generator(Purpose.AUGMENT, int(c)) for c in step.classes])
            real, synthetic = step.augment(real, drawn), step.augment(synthetic, drawn)
        network.eval()
        with torch.no_grad():
            of_real = self.means(network, real)
        of_synthetic = self.means(network, synthetic)
        pairs = zip(of_synthetic, of_real, strict=True)
        return torch.stack([difference(a.flatten(1), b.flatten(1), self.distance) for a, b in pairs]).sum()

    def means(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """The mean over images of each class, ``(K, ...)`` of each layer.

        Args:
            network: The network.
            images: ``(K, n, C, H, W)``.

        Raises:
            InputError: When it has no such layers.
        """
        layers = self.layers
        if layers is None:
            blocks = getattr(network, "blocks", None)
            if not isinstance(blocks, nn.Sequential):
                raise InputError(f"layers: {type(network).__name__} has no blocks; name the layers to match")
            layers = [f"blocks.{name}" for name, _ in blocks.named_children()]
        seen: dict[str, Tensor] = {}
        hooks = [submodule(network, path).register_forward_hook(Tap(path, seen)) for path in layers]
        try:
            network(images.flatten(0, 1))
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[layer].unflatten(0, images.shape[:2]).mean(1) for layer in layers]
