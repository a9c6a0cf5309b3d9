"""ViTKD: a transformer mimics the teacher's first blocks and generates its last from the tokens that are not masked."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.draws import Draws
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, as_tokens, same_size
from lit_distill.models.layer_views import default_layers


@fp32
def vitkd_mimic(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Sum of the squared differences of two token sequences, averaged over the samples alone.

    .. math:: \frac{1}{B} \sum_{bnd} (f^s - f^t)^2

    Args:
        student: Tokens of the student, ``(B, N, D)``.
        teacher: Tokens of the teacher, ``(B, N, D)``.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> vitkd_mimic(torch.ones(2, 5, 3), torch.zeros(2, 5, 3))
        tensor(15.)
    """
    check_same_shape(student, teacher, "tokens")
    return F.mse_loss(student, teacher, reduction="sum") / len(teacher)


@fp32
def vitkd_generate(generated: Tensor, teacher: Tensor, masked: Tensor, ratio: float = 0.5) -> Tensor:
    r"""Sum of the squared differences of the masked tokens, averaged over the samples and divided by their share.

    .. math:: \frac{1}{\lambda B} \sum_{bnd} m_{bn} (g - f^t)^2

    Args:
        generated: Tokens that were generated from the student's, ``(B, N, D)``.
        teacher: Tokens of the teacher, ``(B, N, D)``.
        masked: True for the tokens that were masked, ``(B, N)``.
        ratio: Their share :math:`\lambda`.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> vitkd_generate(torch.ones(1, 4, 3), torch.zeros(1, 4, 3), torch.tensor([[True, False, True, False]]))
        tensor(12.)
    """
    return vitkd_mimic(generated * masked[..., None], teacher * masked[..., None]) / ratio


def masked_tokens(noise: Tensor, ratio: float) -> Tensor:
    """Which tokens are masked: those with the largest noise, as many in each sample.

    Args:
        noise: A number for each token, ``(B, N)``.
        ratio: Share of the tokens that are masked; where it gives no whole number, one more is.

    Returns:
        True for the masked tokens, ``(B, N)``.

    Example:
        >>> masked_tokens(torch.tensor([[0.3, 0.9, 0.1, 0.5]]), ratio=0.5)
        tensor([[False,  True, False,  True]])
    """
    kept = int(noise.shape[1] * (1 - ratio))
    return noise.argsort(1).argsort(1) >= kept


class TokenGenerator(nn.Module):
    """A linear map where widths differ, a learnt token for the masked ones, and two 3x3 convolutions with a ReLU.

    Args:
        width: Width of the student's tokens.
        teacher_width: Width of the teacher's tokens.

    Example:
        >>> TokenGenerator(3, 5)(torch.zeros(2, 16, 3), torch.ones(2, 16, dtype=torch.bool)).shape
        torch.Size([2, 16, 5])
    """

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.align = _aligner(width, teacher_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, teacher_width))
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_width, teacher_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_width, teacher_width, 3, padding=1),
        )

    def forward(self, student: Tensor, masked: Tensor) -> Tensor:
        """Tokens ``(B, N, D_s)`` of a square map, and which are masked ``(B, N)``, to tokens ``(B, N, D_t)``."""
        aligned: Tensor = self.align(student)
        tokens = torch.where(masked[..., None], self.mask_token.to(aligned.dtype), aligned)
        return as_tokens(self.generation(as_map(tokens)))


def _aligner(width: int, teacher_width: int) -> nn.Module:
    return nn.Linear(width, teacher_width) if width != teacher_width else nn.Identity()


class ViTKD(FeatureLoss):
    r"""The first blocks are mimicked; the last is generated, where the student's tokens are masked, from the others.

    Paper: Yang et al., ViTKD: Practical Guidelines for ViT feature knowledge distillation, arXiv 2022,
        https://arxiv.org/abs/2209.02432

    .. math:: \frac{\alpha}{B} \sum_{l \, bnd} \big( A_l f^s_l - f^t_l \big)^2 +
        \frac{\beta}{\lambda B} \sum_{bnd} m_{bn} \big( \mathcal{G}(A f^s; m) - f^t \big)^2

    with linear maps A where widths differ, a mask m that is drawn anew at each step, and a generator
    :math:`\mathcal{G}` that puts a learnt token in place of the masked ones before two 3x3 convolutions with a ReLU
    between them. All these are trained with the student and dropped after. The authors have weight 1, on ImageNet,
    beside cross entropy with weight 1.

    The numbers come from a generator of its own, whose state follows from ``seed``, the rank and how often a mask was
    drawn. Checkpoints hold that count: a resumed run draws what an uninterrupted one would have drawn. In eval mode the
    mask is always the first.

    Args:
        mimic_weight: Factor alpha of the first blocks.
        generate_weight: Factor beta of the last block.
        ratio: Share lambda of the last block's tokens that are masked.
        seed: Another seed, other masks.
        layers: Student module path to teacher module path; the last pair is generated, all before it are mimicked.
            Default: the first two blocks of each network, and the last.

    Shape:
        Tokens ``(B, N, D)``, of which those that do not belong to a square map (class and distillation token) are left
        out, or maps ``(B, D, H, W)`` as high as wide; where sizes differ, the larger one is averaged. Output a scalar,
        summed over the pairs.

    Raises:
        InputError: If a factor is negative, ``ratio`` lies outside (0, 1), there are fewer than two pairs or, without
            any, fewer than three blocks, an activation is no square map, or the loss is called before :meth:`build`.

    Traps:
        - Squares are summed over tokens and channels, not averaged: the factors belong to 196 tokens and the widths of
          DeiT; on small images they are small.
        - Only masked tokens count in the second sum.
        - ``layers`` is read in its order.

    Code: ``yzd-v/cls_KD:mmcls/models/dis_losses/vitkd.py``, equal to this.

    Example:
        >>> tokens = {"blocks.0": torch.randn(2, 17, 3), "blocks.1": torch.randn(2, 17, 3)}
        >>> student = Outputs(torch.zeros(2, 10), tokens)
        >>> loss = ViTKD(layers={"blocks.0": "blocks.0", "blocks.1": "blocks.1"})
        >>> loss.build(student, student)
        >>> loss(student, student, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        mimic_weight: float = 3e-5,
        generate_weight: float = 3e-6,
        ratio: float = 0.5,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(mimic_weight >= 0, "mimic_weight", mimic_weight, "0 or positive")
        require(generate_weight >= 0, "generate_weight", generate_weight, "0 or positive")
        require(0 < ratio < 1, "ratio", ratio, "between 0 and 1")
        require(len(self.layers) != 1, "layers", self.layers, "at least 2 pairs, the last of which is generated")
        self.mimic_weight = mimic_weight
        self.generate_weight = generate_weight
        self.ratio = ratio
        self.draws = Draws(seed)
        self.aligners = nn.ModuleList()
        self.generators = nn.ModuleList()

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Pair the first two blocks and the last of both networks if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        if self.layers:
            return
        prefix = "" if self.teacher is None else f"members.{self.teacher}."
        both = [default_layers(net) for net in (student, teacher.get_submodule(prefix.removesuffix(".")))]
        for blocks in both:
            require(len(blocks) > 2, "layers", f"none and {len(blocks)} blocks", "given for fewer than 3 blocks")
        learnt, taught = ((*blocks[:2], blocks[-1]) for blocks in both)
        self.layers = {s: prefix + t for s, t in zip(learnt, taught, strict=True)}

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear maps and the generator, on the device of the student's tokens.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        *first, last = [_tokens(*pair) for pair in self.pairs(student, teacher)]
        like = last[0]
        # a dry run under autocast gives half-precision tokens: parameters stay in the default precision
        dtype = torch.promote_types(like.dtype, torch.get_default_dtype())
        aligners = nn.ModuleList(_aligner(s.shape[2], t.shape[2]) for s, t in first)
        self.aligners = aligners.to(device=like.device, dtype=dtype)
        generators = nn.ModuleList([TokenGenerator(like.shape[2], last[1].shape[2])])
        self.generators = generators.to(device=like.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared errors of the mimicked blocks and of the generated one."""
        if not self.generators:
            raise InputError("ViTKD must be built with the outputs of a dry run before it is called, got no build()")
        *first, (s, t) = [_tokens(*pair) for pair in self.pairs(student, teacher)]
        mimicked = [vitkd_mimic(net(x), y) for net, (x, y) in zip(self.aligners, first, strict=True)]
        draws = self.draws if self.training else Draws(self.draws.seed)
        noise = torch.rand(t.shape[:2], generator=draws.generator(t.device), device=t.device)
        masked = masked_tokens(noise, self.ratio)
        generated = vitkd_generate(self.generators[0](s, masked), t, masked, self.ratio)
        return self.mimic_weight * torch.stack(mimicked).sum() + self.generate_weight * generated


def _tokens(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of a square map of one size for both."""
    s, t = same_size(as_map(student), as_map(teacher))
    require(s.shape[2] == s.shape[3], "layers", f"a map {tuple(s.shape)}", "maps as high as wide, or tokens")
    return as_tokens(s), as_tokens(t)
