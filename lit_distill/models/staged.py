"""What the networks of this package share: they name their own stages."""

from torch import Tensor, nn

from lit_distill.errors import InputError


class StagedNetwork(nn.Module):
    """A network that names the modules worth tapping.

    ``forward(x)`` returns logits ``(B, num_classes)`` and nothing else; features are tapped by module path.
    No activation works in place and every module runs once per forward pass, so a tap sees exactly what the
    module took and gave.

    Attributes:
        stem_path: Path of the features before the first stage, None where there are none.
        pooled_path: Path of the vector ``(B, D)`` that the classifier sees.
        classifier_path: Path of the last ``nn.Linear``.
    """

    stem_path: str | None = None
    pooled_path: str = "flatten"
    classifier_path: str = "fc"

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the stages from shallow to deep, without the stem and the pooled vector.

        Args:
            pre_activation: Tap each stage before its last activation (as ReviewKD and Overhaul do) instead of
                after it. Such a path ends in ``:input``: what the named module takes, not what it gives.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement stages(pre_activation)")

    def check_images(self, x: Tensor, channels: int, smallest: int = 1) -> None:
        """Refuse images that the network cannot take.

        Args:
            x: The batch.
            channels: Channels it must have.
            smallest: Smallest height and width it may have.

        Raises:
            InputError: The batch is not ``(B, channels, H, W)`` with ``H`` and ``W`` at least ``smallest``.
        """
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < smallest:
            raise InputError(
                f"{type(self).__name__} takes images (batch, {channels}, height, width) of at least "
                f"{smallest}x{smallest} pixels, not {tuple(x.shape)}"
            )


def init_fan_out(network: nn.Module) -> None:
    r"""Draw convolution weights from :math:`N(0, 2 / (k^2 c_{out}))` and zero their biases.

    The initialisation of He et al. (2015) by fan-out, which the CIFAR networks use. Grouped convolutions
    count all output channels, as the authors' code does.

    Args:
        network: Changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
