"""Learning from a teacher's soft labels alone."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature
from lit_distill.losses.divergences.rows import divided
from lit_distill.losses.precision import fp32


@fp32
def fkd_rows(student: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of each sample with its soft label.

    Args:
        student: Logits of the student, ``(B, C)``.
        labels: Class probabilities, ``(B, C)``.
        temperature: Divides the student's logits.

    Returns:
        One value a sample, ``(B,)``.

    Example:
        >>> import torch
        >>> fkd_rows(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
        tensor([1.3863])
    """
    check_same_shape(student, labels, "logits")
    return -(labels * divided(student, temperature).log_softmax(-1)).sum(-1)


@fp32
def fkd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Mean cross entropy with the teacher's probabilities.

    .. math:: -\frac{1}{B} \sum_b \sum_c p_{bc} \log \mathrm{softmax}(z^s_b / T)_c, \qquad
        p_b = \mathrm{softmax}(z^t_b)

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``, or its log-probabilities as they were stored.
        temperature: Divides the student's logits alone.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> fkd(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor(1.3863)
    """
    return fkd_rows(student, teacher.softmax(-1), temperature).mean()


class FKD(LogitLoss):
    r"""Cross entropy with the teacher's soft labels, the one term of fast distillation from stored answers.

    Paper: Shen and Xing, A Fast Knowledge Distillation Framework for Visual Recognition, ECCV 2022,
        https://arxiv.org/abs/2112.01528

    .. math:: -\frac{1}{B} \sum_b \sum_c p_{bc} \log \mathrm{softmax}(z^s_b / T)_c, \qquad
        p_b = \mathrm{softmax}(z^t_b)

    The framework is :class:`~lit_distill.store.StoredDistiller`: the soft labels of many crops of each image are
    computed once, and of each the k likeliest classes are stored. The authors recommend the top 5 with the rest spread
    evenly (marginal smoothing), and train without cross entropy with the true labels.

    Args:
        temperature: Divides the student's logits alone; the soft labels have one of their own. The value is not
            multiplied by its square.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive or the shapes of the logits differ.

    Traps:
        - At temperature 1 the gradient is that of ``KD(temperature=1)``, and the value larger by the teacher's entropy.
        - A soft label belongs to one crop of its image and to no other: ``StoredDistiller`` refuses data whose crops
          are not those that the labels were made for.
        - The authors' batches hold four crops of an image, which saves reading it; here the views of an image come in
          different epochs.

    Code: ``szq0214/FKD:FKD/train_FKD.py`` and ``FKD/utils_FKD.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> FKD()(student, teacher, torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean cross entropy of the batch; the labels are not asked."""
        return fkd(student.logits, teacher.logits, self.temperature)
