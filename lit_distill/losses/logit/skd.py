"""Streamlined knowledge distillation: what each sample is, and how the samples of a batch lie to each other."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32


@fp32
def skd_direction(student: Tensor, teacher: Tensor, tikhonov: float = 0.1) -> Tensor:
    r"""Mahalanobis length of the difference of both networks' cosines between samples.

    .. math:: \frac{1}{B} \sum_i \sqrt{D_i^\top (\Sigma + \lambda I)^{-1} D_i}, \quad
        D_{ij} = \cos(z^s_i, z^s_j) - \cos(z^t_i, z^t_j)

    with the rows :math:`D_i` and their covariance :math:`\Sigma` over the batch, through which gradient flows too.
    Takes memory for B² numbers and time for B³.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        tikhonov: Added to the diagonal of the covariance.

    Returns:
        A scalar; 0 for a single sample.

    Example:
        >>> logits = torch.eye(3)
        >>> skd_direction(2 * logits, logits)
        tensor(0.)
    """
    check_same_shape(student, teacher, "logits")
    s, t = F.normalize(student), F.normalize(teacher)
    difference = s @ s.T - t @ t.T
    centred = difference - difference.mean(0)
    ridge = tikhonov * torch.eye(len(s), dtype=s.dtype, device=s.device)
    factor = torch.linalg.cholesky(centred.T @ centred / max(1, len(s) - 1) + ridge)
    # the length of a vector, not the root of a form: at 0, where the networks agree, it has gradient 0 and not nan
    return torch.linalg.solve_triangular(factor, difference.T, upper=False).norm(dim=0).mean()


class SKD(LogitLoss):
    r"""Softened probabilities of each sample, and the cosines between the logits of the samples of a batch.

    Paper: Jeong, Lee, Choi, Streamlined Knowledge Distillation, CVPR 2026,
        https://openaccess.thecvf.com/content/CVPR2026/papers/Jeong_Streamlined_Knowledge_Distillation_CVPR_2026_paper.pdf

    .. math:: \frac{1}{B} \sum_i \mathrm{KL}\big( \mathrm{softmax}(z^t_i / T) \,\|\, \mathrm{softmax}(z^s_i / T) \big)
        + \frac{w}{B} \sum_i \sqrt{D_i^\top (\Sigma + \lambda I)^{-1} D_i}

    with the difference of cosines :math:`D_{ij} = \cos(z^s_i, z^s_j) - \cos(z^t_i, z^t_j)` and the covariance
    :math:`\Sigma` of its rows. The paper gives no numbers for T and :math:`\lambda`; those here are what torchdistill
    found in the authors' code.

    Args:
        temperature: Divides the logits of both networks before the softmax; not in the cosines.
        tikhonov: Added to the diagonal of the covariance, which is singular otherwise.
        direction_weight: Factor of the cosines; 0 saves their time, which grows with the cube of the batch.
        gather: Compare the samples of all ranks instead of this rank's alone (with gradients); without it the
            value of the term depends on how many devices share the batch.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature or ``tikhonov`` is not positive, ``direction_weight`` is negative or the shapes
            of the logits differ.

    Traps:
        - No factor :math:`T^2`: at T = 4 the divergence weighs 16 times less than in ``KD``.
        - The direction grows about as :math:`\sqrt{B}`: its factor belongs to a size of batch.

    Code: ``yoshitomo-matsubara/torchdistill:torchdistill/losses/mid_level.py`` (SKDInstanceLoss, SKDDirectionLoss),
        equal to this; its gradient is nan where both networks agree. The authors' own code was not to be had.

    Example:
        >>> outputs = Outputs(torch.eye(3))
        >>> SKD()(outputs, outputs, torch.arange(3))
        tensor(0.)
    """

    def __init__(
        self,
        temperature: float = 4.0,
        tikhonov: float = 0.1,
        direction_weight: float = 1.0,
        gather: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        require(tikhonov > 0, "tikhonov", tikhonov, "positive")
        require(direction_weight >= 0, "direction_weight", direction_weight, "0 or positive")
        self.temperature = temperature
        self.tikhonov = tikhonov
        self.direction_weight = direction_weight
        self.gather = gather

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergence and weighted direction of the batch."""
        s, t = student.logits, teacher.logits
        if self.gather:
            s, t = gathered(s), gathered(t)
        loss = reduce_rows(forward_kl(s, t, temperature=self.temperature))
        if self.direction_weight > 0:
            loss = loss + self.direction_weight * skd_direction(s, t, self.tikhonov)
        return loss
