"""Distillation through a token: one of a transformer's two heads learns from the teacher, the other from the labels."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.precision import fp32


@fp32
def deit_hard(class_head: Tensor, token_head: Tensor, teacher: Tensor, target: Tensor, alpha: float = 0.5) -> Tensor:
    """Cross entropy of one head with the labels, and of the other one with the teacher's favourite class.

    The formula is that of :class:`DeiTHard`.

    Args:
        class_head: Logits of the class token's head, ``(B, C)``.
        token_head: Logits of the distillation token's head, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        alpha: Share of the teacher.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> deit_hard(torch.zeros(1, 4), torch.zeros(1, 4), torch.eye(4)[:1], torch.tensor([2]))
        tensor(1.3863)
    """
    check_same_shape(token_head, teacher, "logits")
    return (1 - alpha) * F.cross_entropy(class_head, target) + alpha * F.cross_entropy(token_head, teacher.argmax(-1))


@fp32
def deit_soft(
    class_head: Tensor,
    token_head: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 0.1,
    temperature: float = 3.0,
    mode: Literal["paper", "code"] = "paper",
) -> Tensor:
    """Cross entropy of one head with the labels, and divergence of the other one from the teacher.

    The formula, and what the modes are, stands in :class:`DeiTSoft`.

    Args:
        class_head: Logits of the class token's head, ``(B, C)``.
        token_head: Logits of the distillation token's head, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        alpha: Share of the teacher.
        temperature: Divides the logits of the teacher and of the head that learns from it.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> deit_soft(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([2]), alpha=0.5)
        tensor(0.6931)
    """
    share = alpha / teacher.shape[-1] if mode == "code" else alpha
    return (1 - alpha) * F.cross_entropy(class_head, target) + share * kd(token_head, teacher, temperature)


class _TwoHeads(LogitLoss):
    """A term for students with two heads, one of which learns from the labels and the other one from the teacher.

    Args:
        alpha: Share of the teacher, in [0, 1].
        class_head: Path of the head that learns from the labels.
        token_head: Path of the head that learns from the teacher.
    """

    def __init__(self, alpha: float, class_head: str = "head", token_head: str = "head_dist", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]")
        require(class_head != token_head, "token_head", repr(token_head), "another path than class_head")
        # both heads are compared with the teacher as a whole, whose path is empty
        self.layers = {class_head: "", token_head: ""}
        self.alpha = alpha

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Refuse a student that answers with a pair in training.

        Args:
            student: The student itself.
            teacher: Not asked.
        """
        if getattr(student, "distilled_training", False):
            raise InputError(
                "student must answer with one tensor in training too, got a network with distilled_training; call "
                "set_distilled_training(False) on it: the heads are tapped"
            )

    def heads(self, student: Outputs) -> tuple[Tensor, Tensor]:
        """Logits of the class token's and of the distillation token's head."""
        class_head, token_head = (student.features[path] for path in self.layers)
        return class_head, token_head


class DeiTHard(_TwoHeads):
    r"""The distillation token's head predicts the teacher's favourite class, the class token's head the label.

    Paper: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021,
        https://arxiv.org/abs/2012.12877

    .. math:: \frac{1}{B} \sum_b -(1 - \alpha) \log q^{cls}_{b, y_b} - \alpha \log q^{dist}_{b, \arg\max_c z^t_{bc}}

    with the probabilities q of both heads. The term holds the cross entropy with the labels: add none. For students
    with two heads, such as timm's ``deit_tiny_distilled_patch16_224`` (``timm.create_model`` in a config), whose answer
    is the mean of both, in training too: both heads are tapped where they stand in the network.

    Args:
        alpha: Share of the teacher, in [0, 1].

    Shape:
        Logits ``(B, C)`` of both heads and of the teacher; target ``(B,)`` or ``(B, C)``; output a scalar.

    Raises:
        InputError: If ``alpha`` lies outside [0, 1], the shapes of the logits differ, or the student answers with a
            pair of logits.

    Traps:
        - A timm model with ``set_distilled_training(True)`` answers with a pair in training, which nothing here
          takes; without it nothing is missing.
        - The labels may be smoothed or mixed, the teacher's choice is never smoothed. Under mixup the teacher must
          see the mixed image.

    Code: ``facebookresearch/deit:losses.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student = Outputs(torch.zeros(1, 4), {"head": torch.zeros(1, 4), "head_dist": torch.zeros(1, 4)})
        >>> DeiTHard()(student, Outputs(torch.eye(4)[:1]), torch.tensor([2]))
        tensor(1.3863)
    """

    def __init__(self, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(alpha=alpha, **kwargs)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Both cross entropies with their shares, mean over the batch."""
        return deit_hard(*self.heads(student), teacher.logits, target, self.alpha)


class DeiTSoft(_TwoHeads):
    r"""The distillation token's head learns the teacher's softened probabilities, the class token's head the label.

    Paper: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021,
        https://arxiv.org/abs/2012.12877

    .. math:: \frac{1}{B} \sum_b -(1 - \alpha) \log q^{cls}_{b, y_b} + \frac{\alpha T^2}{N} \, \mathrm{KL} \big(
        \mathrm{softmax}(z^t_b / T) \,\|\, \mathrm{softmax}(z^{dist}_b / T) \big)

    with N = 1 in mode ``paper``, as timm has it, and N = C, the number of classes, in mode ``code``, as the released
    code has it. The term holds the cross entropy with the labels: add none. The paper finds the hard form,
    ``DeiTHard``, better; what is said there of students with two heads holds here.

    Args:
        alpha: Share of the teacher, in [0, 1].
        temperature: Divides the logits of the teacher and of the head that learns from it.
        mode: Formula of the paper or of the released code, see above.

    Shape:
        Logits ``(B, C)`` of both heads and of the teacher; target ``(B,)`` or ``(B, C)``; output a scalar.

    Raises:
        InputError: If ``alpha`` lies outside [0, 1], the temperature is not positive, ``mode`` is unknown, the shapes
            of the logits differ, or the student answers with a pair of logits.

    Traps:
        - With 1000 classes and mode ``code`` the teacher's part is 1000 times as small: hardly any.

    Code: ``facebookresearch/deit:losses.py`` (mode ``code``) and
        ``huggingface/pytorch-image-models:timm/task/token_distillation.py`` (mode ``paper``).

    Example:
        >>> import torch
        >>> student = Outputs(torch.zeros(1, 4), {"head": torch.zeros(1, 4), "head_dist": torch.zeros(1, 4)})
        >>> DeiTSoft(alpha=0.5)(student, Outputs(torch.zeros(1, 4)), torch.tensor([2]))
        tensor(0.6931)
    """

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 3.0,
        mode: Literal["paper", "code"] = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(alpha=alpha, **kwargs)
        check_temperature(temperature)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        self.temperature = temperature
        self.mode: Literal["paper", "code"] = mode

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Cross entropy and divergence with their shares, mean over the batch."""
        return deit_soft(*self.heads(student), teacher.logits, target, self.alpha, self.temperature, self.mode)
