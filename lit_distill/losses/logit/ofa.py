"""One-for-all distillation: stages of the student answer like the teacher, whatever the architectures."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import cross_entropy_rows, divided, reduce_rows
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32


@fp32
def ofa(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    eps: float = 1.0,
    temperature: float = 1.0,
    mode: Literal["paper", "code"] = "code",
) -> Tensor:
    r"""Cross entropy with the teacher, in which the label's class counts more the surer the teacher is of it.

    The formula, and what the modes are, stands in :class:`OFA`.

    Args:
        student: Logits of the student, or of one of its stages, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        eps: Exponent that enhances the label's class.
        temperature: Divides both logits. The value is not multiplied by its square.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar.

    Example:
        >>> ofa(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0]))
        tensor(1.3863)
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    labels = hard_labels(target, student).unsqueeze(-1)
    p = divided(teacher, temperature).softmax(-1)
    enhanced = (1 + p.gather(-1, labels)) ** eps - 1
    others = p**eps if mode == "code" and eps != 1 else p
    return reduce_rows(cross_entropy_rows(student, others.scatter(-1, labels, enhanced), temperature))


class StageHead(nn.Module):
    """From the feature of a stage to logits: it shrinks maps to the size of the last stage on its way.

    Maps are halved by depthwise separable convolutions of stride 2, which double the channels, until they are no
    larger than ``smallest``, and averaged; tokens and vectors pass a layer of their own width, and tokens are averaged
    after it.

    Args:
        shape: Shape of the feature without the batch axis: ``(D, H, W)``, ``(N, D)`` or ``(D,)``.
        classes: Number of classes.
        smallest: Height of the last stage's map.

    Raises:
        InputError: If the shape is none of these.

    Example:
        >>> StageHead((16, 8, 8), classes=10, smallest=2)(torch.zeros(4, 16, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, shape: tuple[int, ...], classes: int, smallest: int = 1) -> None:
        super().__init__()
        if len(shape) == 3:
            wide, size, *_ = shape
            layers: list[nn.Module] = []
            while size >= 2 * smallest:
                layers += [
                    nn.Conv2d(wide, wide, 3, stride=2, padding=1, groups=wide, bias=False),
                    nn.Conv2d(wide, 2 * wide, 1, bias=False),
                    nn.BatchNorm2d(2 * wide),
                    nn.ReLU(),
                ]
                wide, size = 2 * wide, (size + 1) // 2
            self.net = nn.Sequential(*layers or [nn.Conv2d(wide, wide, 1)], nn.AdaptiveAvgPool2d(1), nn.Flatten())
        elif len(shape) in (1, 2):
            wide = shape[-1]
            self.net = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, wide), nn.GELU())
        else:
            raise InputError(
                f"stages must give (B, D, H, W), (B, N, D) or (B, D), got (B, {', '.join(map(str, shape))})"
            )
        self.fc = nn.Linear(wide, classes)

    def forward(self, feature: Tensor) -> Tensor:
        """``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)`` to logits ``(B, C)``."""
        x = self.net(feature)
        return self.fc(x.mean(1) if x.dim() == 3 else x)


class OFA(LogitLoss):
    r"""Heads on stages of the student and the student itself copy the teacher's answer, above all where it is right.

    Paper: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
        NeurIPS 2023, https://arxiv.org/abs/2310.19444

    .. math:: -\sum_h \frac{1}{B} \sum_b \Big( \big( (1 + p_y)^{\epsilon_h} - 1 \big) \log q^h_y
        + \sum_{c \neq y} p_c^{\eta_h} \log q^h_c \Big)

    with the teacher's probabilities p, the label y, and those of head h, :math:`q^h`: one head for each stage, built
    from the shapes of a dry run and dropped after training, and the student's own logits as the last. In mode
    ``paper`` :math:`\eta_h = 1`, in mode ``code`` :math:`\eta_h = \epsilon_h`, as the released code raises all of p to
    the power; with :math:`\epsilon = 1` both are the same.

    For a student of another kind than its teacher, whose features are not alike. The authors take the ends of four
    stages, weight 1 beside cross entropy with weight 1, and tune :math:`\epsilon` between 1 and 1.5 for each stage.

    Args:
        stages: Module paths of the student, from shallow to deep.
        eps: Exponents that enhance the label's class: one for all heads, or one a stage and the last for the logits.
        temperature: Divides all logits before the softmax.
        mode: Formula of the paper or of the released code, see above.

    Shape:
        Features of the student ``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)``; logits ``(B, C)`` of both; target
        ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a scalar, summed over the heads.

    Raises:
        InputError: If there is no stage, the number of exponents does not fit or one is not positive, the temperature
            is not positive, ``mode`` is unknown, a feature has another shape, or the loss is called before
            :meth:`build`.

    Traps:
        - No factor :math:`T^2`, and a cross entropy: the value is not 0 for a student that equals its teacher.
        - The term grows with the number of stages, whose heads take part of the training time.
        - The released code takes the logarithm of the softmax, which is -inf for a student that is certain.

    Code: ``Hao840/OFAKD:distillers/ofa.py``; the heads of maps there are as wide as the wider network, those of tokens
        are transformer blocks.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer1": torch.randn(2, 16, 8, 8), "layer2": torch.randn(2, 64)})
        >>> loss = OFA(stages=["layer1", "layer2"])
        >>> loss.build(student, student)
        >>> loss(student, student, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        stages: list[str],
        eps: tuple[float, ...] = (1.0,),
        temperature: float = 1.0,
        mode: Literal["paper", "code"] = "code",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(len(stages) > 0, "stages", stages, "module paths of the student")
        require(len(eps) in (1, len(stages) + 1), "eps", eps, f"one number, or {len(stages) + 1}: a stage each, logits")
        require(min(eps) > 0, "eps", eps, "positive")
        check_temperature(temperature)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        # a stage is compared with the teacher as a whole, whose path is empty
        self.layers = dict.fromkeys(stages, "")
        self.eps = tuple(eps) * (len(stages) + 1) if len(eps) == 1 else tuple(eps)
        self.temperature = temperature
        self.mode: Literal["paper", "code"] = mode
        self.heads = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create a head for each stage, on the device of its feature.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        features = [student.features[path] for path in self.layers]
        smallest = min([feature.shape[2] for feature in features if feature.dim() == 4], default=1)
        heads = []
        for feature in features:
            # a dry run under autocast gives half-precision features: parameters stay in the default precision
            dtype = torch.promote_types(feature.dtype, torch.get_default_dtype())
            head = StageHead(tuple(feature.shape[1:]), teacher.logits.shape[-1], smallest)
            heads.append(head.to(device=feature.device, dtype=dtype))
        self.heads = nn.ModuleList(heads)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The cross entropies of all heads and of the student itself, summed."""
        if len(self.heads) != len(self.layers):
            raise InputError("OFA must be built with the outputs of a dry run before it is called, got no build()")
        answers = [head(student.features[path]) for head, path in zip(self.heads, self.layers, strict=True)]
        terms = [
            ofa(logits, teacher.logits, target, eps, self.temperature, self.mode)
            for logits, eps in zip([*answers, student.logits], self.eps, strict=True)
        ]
        return torch.stack(terms).sum()
