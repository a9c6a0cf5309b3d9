"""An ensemble's mean probabilities as the only labels, and a discriminator that tells student and teachers apart."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.divergences.rows import kl_rows, log_probs, reduce_rows
from lit_distill.losses.precision import fp32


@fp32
def meal_v2(student: Tensor, teacher: Tensor, discriminator: nn.Module, adversary: float = 1.0) -> Tensor:
    """Divergence from the teachers' probabilities, and the discriminator's binary cross entropy.

    The formula is that of :class:`MEALV2`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``: of an ensemble, the logarithm of its mean probabilities.
        discriminator: Maps log-probabilities ``(2 B, C)`` to scores ``(2 B, 1)``, high for the student's, or to
            ``(2 B, 2)``, the second high for the teacher's.
        adversary: Factor of the discriminator's cross entropy.

    Returns:
        A scalar.

    Example:
        >>> answers = torch.zeros(2, 3)
        >>> undecided = nn.Linear(3, 1).requires_grad_(False)
        >>> _ = undecided.weight.zero_(), undecided.bias.zero_()
        >>> meal_v2(answers, answers, undecided)
        tensor(0.6931)
    """
    log_q, log_p = log_probs(student, teacher)
    similar = reduce_rows(kl_rows(log_p, log_q))
    answers = torch.cat([log_q, log_p])
    # where all of training is in half precision the discriminator's parameters are too
    dtype = next((p.dtype for p in discriminator.parameters()), answers.dtype)
    scores = discriminator(answers.to(dtype)).to(answers.dtype)
    whose = torch.eye(2, dtype=scores.dtype, device=scores.device)[:, : scores.shape[-1]]
    labels = whose.repeat_interleave(len(student), 0)
    return similar + adversary * F.binary_cross_entropy_with_logits(scores, labels)


class MEALV2(LogitLoss):
    r"""The mean probabilities of several teachers are all the student learns, beside a discriminator as regulariser.

    Paper: Shen, Savvides, MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks,
        arXiv 2020, https://arxiv.org/abs/2009.08453

    .. math:: \frac{1}{B} \sum_b \mathrm{KL}(p_b \,\|\, q_b) - \frac{\gamma}{2 B} \sum_b \log \sigma\big( f(\log q_b)
        \big) + \log \Big( 1 - \sigma\big( f(\log p_b) \big) \Big), \qquad p = \frac{1}{K} \sum_k p^k

    with the student q, the probabilities :math:`p^k` of the K teachers and the discriminator f, three linear layers
    with ReLUs between them. Give the run an ``Ensemble`` with ``average: probabilities``. The term replaces cross
    entropy with the labels: the authors train without, from a student that is trained already.

    Student and discriminator step together, down the same loss, with one optimizer: nothing is reversed or detached.
    The student is thus kept from becoming its teachers' copy, not driven to deceive the discriminator; similarity is
    the divergence's part. The discriminator is built from the shapes of a dry run and dropped after training.

    Args:
        adversary: Factor :math:`\gamma` of the discriminator's cross entropy; 0 leaves the divergence alone.
        shrink: Each hidden layer of the discriminator is this many times narrower than what it takes, and never
            narrower than 2.
        mode: Mode ``paper`` is the formula above. In the released code, mode ``code``, f has two outputs with a
            ReLU each, one for the student and one for the teachers, and their cross entropies are averaged.

    Shape:
        Logits ``(B, C)`` of both; the target is not asked; output a scalar.

    Raises:
        InputError: If ``adversary`` is negative, ``shrink`` is below 1, ``mode`` is unknown, the shapes of the logits
            differ, or the loss is called before :meth:`build`.

    Traps:
        - An ``Ensemble`` averages logits by default: without ``average: probabilities`` this is another method.
        - The value has no meaning of its own: at a perfect divergence it is about :math:`\gamma \log 2`.
        - In mode ``code`` a ReLU that no sample passes gets no gradient, for good; with few classes, whose layers are
          narrow, that is likely: lower ``shrink``. And no probability falls below one half.
        - The released code means to train the discriminator with a learning rate of its own, 1e-4, but overwrites it
          with the student's at each epoch; here too it has the student's.

    Code: ``szq0214/MEAL-V2:loss.py`` and ``models/discriminator.py`` (mode ``code``), whose discriminator sees logits:
        those of the student, and the mean of the teachers'. An ensemble that averages probabilities answers with
        their logarithm, so here f sees log-probabilities of both, lest a mere offset tell them apart. The code's
        divergence leaves out the teachers' entropy: the same gradient.

    Example:
        >>> outputs = Outputs(torch.zeros(2, 10))
        >>> loss = MEALV2(shrink=2)
        >>> loss.build(outputs, outputs)
        >>> loss(outputs, outputs, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self, adversary: float = 1.0, shrink: int = 8, mode: Literal["paper", "code"] = "paper", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(adversary >= 0, "adversary", adversary, "0 or positive")
        require(shrink >= 1, "shrink", shrink, "at least 1")
        require(mode in ("paper", "code"), "mode", repr(mode), "'paper' or 'code'")
        self.adversary = adversary
        self.shrink = shrink
        self.mode: Literal["paper", "code"] = mode
        self.discriminator: nn.Sequential | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the discriminator, on the device of the logits.

        Args:
            student: What the student said about the example batch.
            teacher: Not asked.
        """
        classes = student.logits.shape[-1]
        wide = max(2, classes // self.shrink)
        narrow = max(2, wide // self.shrink)
        layers = [nn.Linear(classes, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU()]
        last = [nn.Linear(narrow, 1)] if self.mode == "paper" else [nn.Linear(narrow, 2), nn.ReLU()]
        # a dry run under autocast gives half-precision logits: parameters stay in the default precision
        dtype = torch.promote_types(student.logits.dtype, torch.get_default_dtype())
        self.discriminator = nn.Sequential(*layers, *last).to(device=student.logits.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergence and weighted cross entropy of the discriminator, mean over the batch."""
        if self.discriminator is None:
            raise InputError("MEALV2 must be built with the outputs of a dry run before it is called, got no build()")
        return meal_v2(student.logits, teacher.logits, self.discriminator, self.adversary)
