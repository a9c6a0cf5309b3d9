"""Soft labels with a correction where the teacher does not recognise the class."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.logit.fkd import fkd_rows
from lit_distill.losses.precision import fp32


@fp32
def calibrated(
    labels: Tensor, target: Tensor, low: float, middle: float, top: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    r"""Soft labels, corrected by the teacher's confidence in the true class.

    With the probability :math:`c` that a soft label p gives to the class y, and :math:`\mathcal T_L \le \mathcal T_M
    \le \mathcal T_T`

    .. math::
        \text{discard if } c < \mathcal T_L \text{ or } c > \mathcal T_T; \qquad
        \hat y = \begin{cases}
        1 - \epsilon \text{ at } y,\ \epsilon / (C - 1) \text{ elsewhere} & c < \mathcal T_M \\
        p & \text{otherwise} \end{cases}

    Args:
        labels: Class probabilities, ``(B, C)``.
        target: The true classes ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest counts.
        low: The threshold :math:`\mathcal T_L`.
        middle: The threshold :math:`\mathcal T_M`.
        top: The threshold :math:`\mathcal T_T`.
        smoothing: The share :math:`\epsilon` of the other classes.

    Returns:
        Class probabilities ``(B, C)``, and which samples are not discarded, bool ``(B,)``.

    Example:
        >>> labels = torch.tensor([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2], [0.99, 0.01]])
        >>> calibrated(labels, torch.zeros(4, dtype=torch.long), low=0.2, middle=0.5, top=0.9, smoothing=0.25)
        (tensor([[0.7500, 0.2500],
                [0.7500, 0.2500],
                [0.8000, 0.2000],
                [0.9900, 0.0100]]), tensor([False,  True,  True, False]))
    """
    classes = hard_labels(target, labels).unsqueeze(-1)
    confidence = labels.gather(-1, classes).clamp(max=1)
    spread = smoothing / max(labels.shape[-1] - 1, 1)
    smoothed = torch.full_like(labels, spread).scatter(-1, classes, 1 - smoothing)
    kept = (confidence >= low) & (confidence <= top)
    return torch.where(confidence < middle, smoothed, labels), kept.squeeze(-1)


@fp32
def ferkd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    low: float = 0.15,
    middle: float = 0.3,
    top: float = 1.0,
    smoothing: float = 0.1,
    temperature: float = 1.0,
    mean_over: Literal["kept", "batch"] = "kept",
) -> Tensor:
    r"""Mean cross entropy with calibrated soft labels.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``, or its log-probabilities as they were stored.
        target: The true classes ``(B,)``, or class probabilities ``(B, C)``.
        low: Least confidence of samples that are kept.
        middle: Below this the true class takes the place of the soft label.
        top: Largest confidence of samples that are kept.
        smoothing: Share of the other classes where the true class takes its place.
        temperature: Divides the student's logits alone.
        mean_over: Divide by the number of samples that are kept, or by the size of the batch.

    Returns:
        A scalar; 0 when no sample is kept.

    Example:
        >>> ferkd(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([0, 3]), low=0.0)
        tensor(1.3863)
    """
    check_same_shape(student, teacher, "logits")
    labels, kept = calibrated(teacher.softmax(-1), target, low, middle, top, smoothing)
    rows = torch.where(kept, fkd_rows(student, labels, temperature), 0)
    return rows.sum() / (kept.sum().clamp(min=1) if mean_over == "kept" else len(rows))


class FerKD(LogitLoss):
    r"""Soft labels, but the true label where the teacher hardly sees its class, and nothing where it sees none of it.

    Paper: Shen, FerKD: Surgical Label Adaptation for Efficient Distillation, ICCV 2023,
        https://arxiv.org/abs/2312.17473

    .. math:: -\frac{1}{|K|} \sum_{b \in K} \sum_c \hat y_{bc} \log \mathrm{softmax}(z^s_b / T)_c, \qquad
        K = \{ b : \mathcal T_L \le c_b \le \mathcal T_T \}, \qquad
        \hat y_b = \begin{cases}
        1 - \epsilon \text{ at the true class},\ \epsilon / (C - 1) \text{ elsewhere} & c_b < \mathcal T_M \\
        p_b & \text{otherwise} \end{cases}

    with the teacher's probabilities p and its confidence :math:`c_b` in the true class. A crop that shows none of the
    object is discarded, one that shows little or its surroundings (a hard region) is learnt as context of the true
    class, and only important regions keep what the teacher says. Discarding crops that are too easy
    (:math:`\mathcal T_T < 1`) needs a teacher that is not certain of most of its training set. In training from stored
    answers with :class:`~lit_distill.store.StoredDistiller`; the mixture that goes with it is
    :class:`~lit_distill.data.SelfMix`.

    Args:
        low: Least confidence of the teacher in the true class, in [0, 1]; samples below are discarded.
        middle: Below this confidence the smoothed true label takes the place of the soft one.
        top: Largest confidence; samples above are discarded. 1 discards none.
        smoothing: Share of the other classes in a smoothed true label, in [0, 1].
        temperature: Divides the student's logits alone, as in ``FKD``.
        mean_over: Divide by the number of samples that are kept, as if the others had never been cut, or by the size of
            the batch.

    Shape:
        Logits ``(B, C)`` of both; target class indices ``(B,)`` or class probabilities ``(B, C)``; output a scalar.

    Raises:
        InputError: If the thresholds do not rise within [0, 1], ``smoothing`` lies outside [0, 1], the temperature is
            not positive, ``mean_over`` is unknown, or the shapes of the logits differ.

    Traps:
        - The thresholds and the smoothing are this library's: the authors published labels that are calibrated
          already, and not what calibrates them. Chance level matters: with 4 classes a confidence of 0.25 is none.
        - In labels of which the top k are stored, a true class beyond them has a share of the rest, and is discarded.
        - With ``mean_over: kept`` each of several devices divides by its own number, so the samples do not all count
          alike.

    Code: ``szq0214/FKD:FerKD/README.md`` refers to the training code of FKD and to labels that are calibrated already;
        the code that calibrates them is not public.

    Example:
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.tensor([[9.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        >>> FerKD()(student, teacher, torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(
        self,
        low: float = 0.15,
        middle: float = 0.3,
        top: float = 1.0,
        smoothing: float = 0.1,
        temperature: float = 1.0,
        mean_over: Literal["kept", "batch"] = "kept",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("low", low), ("top", top), ("smoothing", smoothing)):
            require(0 <= value <= 1, name, value, "in [0, 1]")
        require(low <= middle <= top, "middle", middle, f"from low, {low}, to top, {top}")
        require(mean_over in ("kept", "batch"), "mean_over", repr(mean_over), "kept or batch")
        check_temperature(temperature)
        self.low = low
        self.middle = middle
        self.top = top
        self.smoothing = smoothing
        self.temperature = temperature
        self.mean_over: Literal["kept", "batch"] = mean_over

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean cross entropy of the samples that are kept."""
        return ferkd(
            student.logits,
            teacher.logits,
            target,
            self.low,
            self.middle,
            self.top,
            self.smoothing,
            self.temperature,
            self.mean_over,
        )
