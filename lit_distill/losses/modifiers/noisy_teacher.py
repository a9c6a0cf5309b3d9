"""Noise on the teacher's logits."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.draws import Draws
from lit_distill.losses.modifiers.base import Modifier
from lit_distill.losses.precision import fp32


@fp32
def noisy(
    logits: Tensor,
    generator: torch.Generator,
    std: float = 0.3,
    probability: float = 0.5,
    noise: Literal["multiplicative", "additive"] = "multiplicative",
) -> Tensor:
    """Logits with Gaussian noise on some of the samples; the formula is that of :class:`NoisyTeacher`.

    Args:
        logits: Scores ``(B, C)``.
        generator: Where the random numbers come from, on the device of the logits.
        std: Standard deviation of the noise.
        probability: Of a sample to be disturbed.
        noise: Whether noise multiplies or is added.

    Returns:
        Scores ``(B, C)``.
    """
    where = torch.rand(logits.shape[:-1], generator=generator, device=logits.device) < probability
    gaussian = torch.randn(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    disturbance = std * gaussian * where.unsqueeze(-1)
    return logits * (1 + disturbance) if noise == "multiplicative" else logits + disturbance


class NoisyTeacher(Modifier):
    r"""The teacher's logits are disturbed, sample by sample and anew at each step.

    Paper: Sau and Balasubramanian, Deep Model Compression: Distilling Knowledge from Noisy Teachers, arXiv 2016,
        https://arxiv.org/abs/1610.09650

    .. math:: z^t_{bc} \mapsto z^t_{bc} \, (1 + \sigma \, m_b \, \xi_{bc}), \qquad \xi_{bc} \sim \mathcal{N}(0, 1),
        \quad m_b \sim \mathrm{Bernoulli}(\alpha)

    or :math:`z^t_{bc} + \sigma \, m_b \, \xi_{bc}` where noise is added. It regularises the student, as many slightly
    different teachers would. In eval mode there is none.

    The numbers come from a generator of its own, whose state follows from ``seed``, the rank and how often noise was
    drawn. Checkpoints hold that count: a resumed run draws what an uninterrupted one would have drawn.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        std: Standard deviation of the noise; 0 for none.
        probability: Of a sample to be disturbed, in [0, 1].
        noise: Relative to each logit, as in the paper (``multiplicative``), or in the units of logits (``additive``).
        seed: Another seed, other noise.

    Shape:
        Logits ``(B, C)`` of both; output that of the term within.

    Raises:
        InputError: If ``std`` is negative, ``probability`` lies outside [0, 1] or ``noise`` is unknown; besides, as
            the term within.

    Traps:
        - Every logit has noise of its own: a number added to all logits of a sample, as some codes draw it, leaves
          the softmax as it is.
        - Multiplied noise depends on the mean of the logits, which the softmax does not see.
        - CPU and CUDA generators draw different numbers from one seed.

    Code: ``SforAiDl/KD_Lib:KD_Lib/KD/vision/noisy/noisy_teacher.py``, from which the defaults are (variance 0.1), not
        the authors'; it disturbs whole batches with ``probability``, where the paper and this disturb samples.

    Example:
        >>> from lit_distill.losses import KD
        >>> loss, target = NoisyTeacher(KD(), probability=1.0), torch.tensor([0])
        >>> same = Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> bool(loss(same, same, target) > 0), bool(loss.eval()(same, same, target) > 0)
        (True, False)
    """

    def __init__(
        self,
        loss: LogitLoss,
        std: float = 0.3,
        probability: float = 0.5,
        noise: Literal["multiplicative", "additive"] = "multiplicative",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, **kwargs)
        require(std >= 0, "std", std, "0 or positive")
        require(0 <= probability <= 1, "probability", probability, "in [0, 1]")
        require(noise in ("multiplicative", "additive"), "noise", repr(noise), "multiplicative or additive")
        self.std = std
        self.probability = probability
        self.noise = noise
        self.draws = Draws(seed)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, with a disturbed teacher."""
        if self.training:
            generator = self.draws.generator(teacher.logits.device)
            logits = noisy(teacher.logits, generator, self.std, self.probability, self.noise)
            teacher = teacher._replace(logits=logits)
        return super().forward(student, teacher, target)
