"""Factor transfer: the student translates its map into what a paraphrase of the teacher's map says."""

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.directions import unit
from lit_distill.losses.feature.maps import aligned
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map

# Slope of the LeakyReLU after every convolution, as in the authors' code.
SLOPE = 0.1


@fp32
def ft(student: Tensor, teacher: Tensor, p: float = 1.0, mode: Literal["paper", "code"] = "paper") -> Tensor:
    r"""Difference of two factors; the formula, and what the modes are, stands in :class:`FT`.

    Args:
        student: Factor of the student, ``(B, C, H_s, W_s)``.
        teacher: Factor of the teacher, ``(B, C, H_t, W_t)``; the larger is averaged to the size of the smaller.
        p: Power of the differences.
        mode: Normalisation of the paper, or of the code of the benchmark.

    Returns:
        A scalar, the mean over samples and entries.

    Raises:
        InputError: If they are not maps of the same samples, or, in mode ``paper``, differ in their channels.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> ft(2 * x, x)
        tensor(0.)
    """
    s, t = aligned(student, teacher)
    if mode == "code":
        s, t = s.square().mean(1), t.square().mean(1)
    require(
        s.shape == t.shape,
        "student and teacher factors",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "of as many channels",
    )
    difference = unit(s.flatten(1)) - unit(t.flatten(1))
    return difference.abs().mean() if p == 1 else difference.abs().pow(p).mean()


def encoder(channels: int, factors: int) -> nn.Module:
    """Three 3x3 convolutions from a map of ``channels`` to a factor of ``factors`` channels, of the same size.

    Args:
        channels: Channels of the map.
        factors: Channels of the factor.
    """
    return _three(nn.Conv2d, [channels, channels, factors, factors])


def decoder(channels: int, factors: int) -> nn.Module:
    """Three transposed 3x3 convolutions from the factor back to the map.

    Args:
        channels: Channels of the map.
        factors: Channels of the factor.
    """
    return _three(nn.ConvTranspose2d, [factors, factors, channels, channels])


def _three(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: list[int]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(3):
        layers[f"conv{i}"] = kind(widths[i], widths[i + 1], kernel_size=3, padding=1)
        layers[f"relu{i}"] = nn.LeakyReLU(SLOPE)
    return nn.Sequential(layers)


class FT(FeatureLoss):
    r"""A translator makes of the student's map what a paraphraser makes of the teacher's.

    Paper: Kim, Park, Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018,
        https://arxiv.org/abs/1802.04977

    .. math:: \sum_{(s, t)} w_t \, \mathrm{mean} \Big| \frac{F^s}{\| F^s \|_2} - \frac{F^t}{\| F^t \|_2} \Big|^p
        + w_r \, \mathrm{mean} \big( (\mathrm{dec}(F^t) - f^t)^2 \big), \quad
        F^s = \mathrm{trans}(f^s), \; F^t = \mathrm{enc}(f^t)

    with one norm for each sample. Encoder, decoder and translator are three convolutions each, with LeakyReLU; a
    factor has ``rate`` times the teacher's channels. The first summand trains the student and its translator and the
    second the paraphraser (encoder and decoder), which thus sees the teacher alone, as in the paper.

    There the paraphraser is trained before the student. Here both train in one run, so that no stage has to be kept,
    named and loaded again; the factors stand still as soon as the reconstruction does. A ``Schedule`` of
    ``transfer_weight``, from 0 to 1 with ``shape: constant``, makes the paraphraser go first all the same.

    The benchmark of CRD on CIFAR-100 takes the last stage with weight 200, the authors take weight 500.

    Args:
        rate: Channels of a factor over those of the teacher's map.
        p: Power of the differences.
        transfer_weight: Factor of the difference of the factors.
        reconstruction_weight: Factor of the paraphraser's own error. ``weight`` multiplies it too: with 200 the
            default makes 1. Optimizers that divide by the size of gradients (Adam) hardly see it.
        mode: What is normalised: a factor as a whole (``paper``), or its attention map, the mean over channels of its
            squares (``code``, as in the benchmark).

    Shape:
        Maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``, or tokens ``(B, N, D)`` that fill a square; of two
        factors the larger is averaged to the size of the smaller; output a scalar, summed over the pairs.

    Raises:
        InputError: If a number is out of its range, if ``mode`` is none of the two, if an activation is no map, or
            if the loss is called before :meth:`build`.

    Traps:
        - The logged value holds the paraphraser's error too, and does not fall to 0 when the student has learnt all.
        - The benchmark's translator has BatchNorm; this one has none, as the authors'.

    Code: ``Jangho-Kim/Factor-Transfer-pytorch:train_student.py`` and ``Models/FeatureProjection.py``, equal to mode
        ``paper`` once the paraphraser is trained (there with the mean absolute error);
        ``HobbitLong/RepDistiller:distiller_zoo/FT.py``, equal to mode ``code`` for the same factors.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer3": torch.rand(2, 3, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer3": torch.rand(2, 6, 4, 4)})
        >>> loss = FT(layers={"layer3": "layer3"}, weight=200.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(
        self,
        rate: float = 0.5,
        p: float = 1.0,
        transfer_weight: float = 1.0,
        reconstruction_weight: float = 0.005,
        mode: Literal["paper", "code"] = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(rate > 0, "rate", rate, "positive")
        require(p >= 1, "p", p, "at least 1")
        require(transfer_weight >= 0, "transfer_weight", transfer_weight, "0 or positive")
        require(reconstruction_weight > 0, "reconstruction_weight", reconstruction_weight, "positive")
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        self.rate = rate
        self.p = p
        self.transfer_weight = transfer_weight
        self.reconstruction_weight = reconstruction_weight
        self.mode: Literal["paper", "code"] = mode
        self.translators = nn.ModuleList()
        self.encoders = nn.ModuleList()
        self.decoders = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create translators and paraphrasers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        for s, t in self.pairs(student, teacher):
            learnt, taught = as_map(s).shape[1], as_map(t).shape[1]
            factors = max(1, round(self.rate * taught))
            self.translators.append(encoder(learnt, factors))
            self.encoders.append(encoder(taught, factors))
            self.decoders.append(decoder(taught, factors))
            # a dry run under autocast gives half-precision maps: parameters stay in the default precision
            self.to(device=s.device, dtype=torch.promote_types(s.dtype, torch.get_default_dtype()))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Difference of the factors and the error of the paraphrasers, summed over the pairs."""
        if len(self.encoders) != len(self.layers):
            raise InputError("FT must be built with the outputs of a dry run before it is called, got no build()")
        networks = zip(self.translators, self.encoders, self.decoders, strict=True)
        terms = []
        for (s, t), (translate, encode, decode) in zip(self.pairs(student, teacher), networks, strict=True):
            taught = as_map(t)
            factor = encode(taught)
            transfer = ft(translate(as_map(s)), factor.detach(), self.p, self.mode)
            reconstruction = _squared_error(decode(factor), taught)
            terms.append(self.transfer_weight * transfer + self.reconstruction_weight * reconstruction)
        return torch.stack(terms).sum()


@fp32
def _squared_error(given: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(given, wanted)
