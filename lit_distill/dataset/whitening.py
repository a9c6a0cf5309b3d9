"""ZCA whitening: images whose pixels are uncorrelated, and look like images all the same."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_distill.errors import InputError
from lit_distill.student_file import write_whole


class Whitening:
    r"""A linear map that makes the pixels of a set of images uncorrelated.

    .. math:: \hat x = (x - \mu)\, U (\Lambda + \epsilon)^{-1/2} U^\top

    with the mean :math:`\mu` and the covariance :math:`U \Lambda U^\top` of flattened images. Distilled sets of natural
    images are often learned in this space, and networks then want test images in it too (Cazenavette et al., CVPR 2022,
    https://arxiv.org/abs/2203.11932).

    Args:
        mean: ``(D,)``.
        forward: The map, ``(D, D)``.
        backward: Its inverse, ``(D, D)``.

    Code: ``GeorgeCazenavette/mtt-distillation:utils.py`` (with ``kornia.enhance.ZCAWhitening``)

    Example:
        >>> x = torch.randn(200, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        >>> whitening = Whitening.of(x, epsilon=0.0)
        >>> torch.allclose(whitening(x).flatten(1).T.cov(), torch.eye(9), atol=1e-4)
        True
    """

    def __init__(self, mean: Tensor, forward: Tensor, backward: Tensor) -> None:
        self.mean, self.forward, self.backward = mean, forward, backward

    @classmethod
    def of(cls, images: Tensor, epsilon: float = 0.1) -> "Whitening":
        """The map that whitens images like these.

        Args:
            images: ``(N, C, H, W)``, normalised.
            epsilon: What is added to all variances, so that directions in which images hardly differ are not blown up.

        Raises:
            InputError: When there are fewer than two images, or ``epsilon`` is negative.
        """
        if len(images) < 2:
            raise InputError(f"images must be at least 2 to whiten by, not {len(images)}")
        if epsilon < 0:
            raise InputError(f"epsilon must be at least 0, not {epsilon}")
        x = images.flatten(1).double()
        mean = x.mean(0)
        x = x - mean
        values, vectors = torch.linalg.eigh(x.T @ x / (len(x) - 1))
        scale = (values.clamp(min=0) + epsilon).sqrt()
        forward, backward = ((vectors * s) @ vectors.T for s in (1 / scale, scale))
        return cls(mean.float(), forward.float(), backward.float())

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten.

        Args:
            images: ``(..., C, H, W)``, normalised.
        """
        return self._mapped(images, lambda x, m: (x - m) @ self.forward.to(x))

    def undone(self, images: Tensor) -> Tensor:
        """The normalised images that these were made of.

        Args:
            images: ``(..., C, H, W)``, white.
        """
        return self._mapped(images, lambda x, m: x @ self.backward.to(x) + m)

    def save(self, file: Path) -> None:
        """Write it as safetensors, all or nothing.

        Args:
            file: Where it goes.
        """
        tensors = {"mean": self.mean, "forward": self.forward, "backward": self.backward}
        write_whole(file, lambda partial: save_file({n: t.contiguous() for n, t in tensors.items()}, partial))

    @classmethod
    def load(cls, file: Path) -> "Whitening":
        """Read it.

        Args:
            file: What :meth:`save` wrote.

        Raises:
            InputError: When the file is missing, damaged, or holds something else.
        """
        try:
            return cls(**load_file(file))
        except FileNotFoundError:
            raise InputError(f"whitening: {file} does not exist") from None
        except (SafetensorError, OSError, TypeError) as error:
            raise InputError(f"whitening: {file} holds no whitening, or is damaged") from error

    def _mapped(self, images: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x = images.flatten(-3)
        if x.shape[-1] != len(self.mean):
            shape = tuple(images.shape[-3:])
            raise InputError(f"whitening: it is for images of {len(self.mean)} numbers, not for {shape}")
        return function(x, self.mean.to(x)).view_as(images)
