"""Truncation to the classes that the teacher finds likeliest."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.modifiers.base import Modifier
from lit_distill.losses.precision import fp32

Tail = Literal["bucket", "renormalise_both", "renormalise_teacher"]

# How far below the teacher's largest logit a class lies that it rules out: a probability of 0 at any temperature in
# use, while -inf would make nan of whatever multiplies it by a logarithm.
FAR = 1e6


@fp32
def top_k(student: Tensor, teacher: Tensor, k: int, tail: Tail = "bucket") -> tuple[Tensor, Tensor]:
    """Logits of both networks on the teacher's k likeliest classes; what becomes of the others :class:`TopK` says.

    Args:
        student: Logits of the student, ``(..., C)``.
        teacher: Logits of the teacher, ``(..., C)``.
        k: How many classes.
        tail: What becomes of the others.

    Returns:
        ``(student, teacher)``: ``(..., k + 1)`` each with a bucket, ``(..., k)`` where both are renormalised,
        ``(..., C)`` where the teacher alone is, or if there are no more than k classes.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> top_k(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 2.0, 0.0]]), k=2)
        (tensor([[0.0000, 0.0000, 0.6931]]), tensor([[3.0000, 2.0000, 0.6931]]))
    """
    check_same_shape(student, teacher, "logits")
    if k >= student.shape[-1]:
        return student, teacher
    top, classes = teacher.topk(k, -1)
    if tail == "renormalise_both":
        return student.gather(-1, classes), top
    if tail == "renormalise_teacher":
        nothing = (top[..., :1] - FAR).expand_as(teacher)
        return student, nothing.scatter(-1, classes, top)
    return _with_bucket(student, classes), _with_bucket(teacher, classes)


class TopK(Modifier):
    r"""The terms compare the teacher's k likeliest classes alone, and the others at most as a whole.

    Paper: Peng et al., Pre-training Distillation for Large Language Models: A Design Space Exploration, ACL 2025
        (truncated logits), https://arxiv.org/abs/2410.16215

    .. math:: z \mapsto \Big( z_{c_1}, \dots, z_{c_k}, \; \log \sum_{c \notin \{c_1, \dots, c_k\}} e^{z_c} \Big)

    with the k classes :math:`c_1, \dots, c_k` that the teacher finds likeliest (this is ``bucket``).

    What "top-k distillation" means differs from code to code; ``tail`` names what becomes of the other classes:

    - ``bucket``: they become one event more, with their probability together, in both networks. A divergence of
      these k + 1 events is a true one, and never above that of all classes.
    - ``renormalise_both``: they leave both networks; the student's probability outside is not penalised.
    - ``renormalise_teacher``: the teacher's probability of them is 0, the student's stays: it learns to put all its
      probability on the k classes. For terms between probabilities that may be 0, as ``KD`` is.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        k: How many classes; without effect where there are no more.
        tail: What becomes of the other classes.

    Shape:
        Logits ``(B, C)`` of both; the term within gets ``(B, k + 1)``, ``(B, k)`` or ``(B, C)``, and class indices
        or probabilities to fit; output that of the term within.

    Raises:
        InputError: If ``k`` is below 1 (below 2 where both are renormalised, since one class has no alternative),
            ``tail`` is unknown, or the shapes of the logits differ; besides, as the term within.

    Traps:
        - The bucket is made at temperature 1, from the probabilities that a store of truncated answers holds too;
          the temperature of the term within softens the k + 1 events.
        - The form that leaves out the tail and renormalises nothing (verl) is not here: its "divergence" can be
          negative. It is not a function of two distributions, which any term on logits could take.
        - Whatever reads labels (``CrossEntropy``, ``DKD``, ``DTS`` within) needs a place for those outside the k
          classes: with ``renormalise_both`` they get the index k, which is out of bounds there.
        - Standardise first: after ``renormalise_teacher`` there is no scale of the logits left.

    Code: ``arcee-ai/DistillKit:distillkit/lossfuncs/kl.py`` (``symmetric_uniform`` is ``bucket``, ``zero`` is
        ``renormalise_teacher``), ``modelscope/ms-swift:swift/rlhf_trainers/gkd_loss.py`` (``renormalise_both``), equal
        to this at temperature 1.

    Example:
        >>> from lit_distill.losses import KD
        >>> teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
        >>> loss, target = TopK(KD(), k=2, tail="renormalise_both"), torch.tensor([0])
        >>> loss(Outputs(teacher + torch.tensor([0.0, 0.0, 5.0, 9.0])), Outputs(teacher), target)
        tensor(0.)
    """

    def __init__(self, loss: LogitLoss, k: int, tail: Tail = "bucket", **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        accepted = ("bucket", "renormalise_both", "renormalise_teacher")
        require(tail in accepted, "tail", repr(tail), f"one of {', '.join(accepted)}")
        least = 2 if tail == "renormalise_both" else 1
        require(k >= least, "k", k, f"at least {least} with tail {tail}")
        self.k = k
        self.tail: Tail = tail

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Let the term within create its parameters for the classes that are left.

        Args:
            student: What the student said about the example batch.
            teacher: What this term's teacher said about it.
        """
        super().build(*self._cut(student, teacher))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of the classes that are left."""
        return super().forward(*self._cut(student, teacher), self._relabelled(teacher.logits, target))

    def _cut(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        student_logits, teacher_logits = top_k(student.logits, teacher.logits, self.k, self.tail)
        return student._replace(logits=student_logits), teacher._replace(logits=teacher_logits)

    def _relabelled(self, logits: Tensor, target: Tensor) -> Tensor:
        """The target in terms of the classes that are left."""
        if self.k >= logits.shape[-1] or self.tail == "renormalise_teacher":
            return target
        classes = logits.topk(self.k, -1).indices
        if target.shape == logits.shape:
            chosen = target.gather(-1, classes)
            rest = target.sum(-1, keepdim=True) - chosen.sum(-1, keepdim=True)
            return torch.cat([chosen, rest], -1) if self.tail == "bucket" else chosen
        found = classes == hard_labels(target, logits).unsqueeze(-1)
        return torch.where(found.any(-1), found.int().argmax(-1), self.k)


def _with_bucket(logits: Tensor, classes: Tensor) -> Tensor:
    others = logits.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, classes), others], -1)
