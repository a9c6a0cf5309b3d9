"""DarkRank: the samples nearest to each one, in the order that the teacher has them."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import require
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.relational.cosines import check_vectors
from lit_distill.losses.views import pooled


@fp32
def darkrank(student: Tensor, teacher: Tensor, alpha: float = 3.0, beta: float = 3.0, length: int = 4) -> Tensor:
    r"""How unlikely the teacher's order of the nearest samples is for the student; see :class:`DarkRank`.

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.
        alpha: Factor of the distances.
        beta: Exponent of the distances.
        length: How many of the nearest samples are ordered; all others, where they are fewer.

    Returns:
        A scalar; 0 where there are fewer than two others.

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> bool(darkrank(x, x) < darkrank(x, x.flip(0) ** 2))
        True
    """
    check_vectors(student, teacher)
    # of differences: products would leave nothing of the distances within a tight cluster
    learnt, taught = (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (student, teacher))
    itself = torch.eye(len(taught), dtype=torch.bool, device=taught.device)
    others = taught.masked_fill(itself, torch.inf).topk(min(length, len(taught) - 1), dim=1, largest=False).indices
    scores = -alpha * learnt.gather(1, others).pow(beta)
    # each against those that come after it
    rests = [scores[:, i:].logsumexp(1) for i in range(scores.shape[1])]
    return sum(rests, -scores.sum(1)).mean()


class DarkRank(RelationalLoss):
    r"""The student ranks the samples nearest to each one as the teacher does.

    Paper: Chen, Wang, Zhang, DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer,
        AAAI 2018, https://arxiv.org/abs/1707.01220

    .. math:: - \frac{1}{B} \sum_b \sum_{i=1}^{n} \Big[ s_{b \pi_b(i)} - \log \sum_{j=i}^{n} \exp s_{b \pi_b(j)} \Big],
        \quad s_{bj} = - \alpha \, \| x^s_b - x^s_j \|^\beta

    with the n samples :math:`\pi_b` nearest to sample b for the teacher, the nearest first: the likelihood of the one
    best order, which the paper calls the hard version. Embeddings may differ in length and are not normalised; maps are
    averaged over their positions.

    Args:
        alpha: Factor of the distances.
        beta: Exponent of the distances.
        length: How many of the nearest samples are ordered, n.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of any size on either side; output a scalar,
        summed over the pairs.

    Raises:
        InputError: If a number is out of its range, or an activation is none of these.

    Traps:
        - The value does not vanish where the student equals the teacher: only distances that differ by much make an
          order certain, and more of them are learnt from by growing all distances.
        - ``alpha`` and ``beta`` belong to distances near 1: embeddings that are not normalised may be far longer, and
          the score grows with the power ``beta``.
        - Without ``gather`` the nearest samples are those of each device.

    Code: ``lenscloth/RKD:metric/loss.py`` (``HardDarkRank``), equal to this, but that it drops the first of each
        order, whichever sample that is, where this leaves out the sample itself.

    Example:
        >>> outputs = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 8, 2, 2)})
        >>> DarkRank(layers={"layer4": "layer4"})(outputs, outputs, torch.arange(4)).shape
        torch.Size([])
    """

    default_view = "pooled"

    def __init__(self, alpha: float = 3.0, beta: float = 3.0, length: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(alpha > 0, "alpha", alpha, "positive")
        require(beta >= 1, "beta", beta, "at least 1")
        require(length >= 2, "length", length, "at least 2")
        self.alpha = alpha
        self.beta = beta
        self.length = length

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Unlikeliness of the teacher's orders, summed over the pairs."""
        terms = []
        for pair in self.pairs(student, teacher):
            s, t = (fp32(pooled)(feature) for feature in pair)
            if self.gather:
                s, t = gathered(s), gathered(t)
            terms.append(darkrank(s, t, self.alpha, self.beta, self.length))
        return torch.stack(terms).sum()
