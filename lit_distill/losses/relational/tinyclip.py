"""TinyCLIP's affinity mimicking: which text an image matches, and which image a text, as the teacher has it."""

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.directions import unit
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import pooled


@fp32
def tinyclip(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    temperature: float | Tensor = 0.07,
    teacher_temperature: float | Tensor = 0.07,
) -> Tensor:
    r"""Cross entropy between the affinities of two towers; the formula stands in :class:`TinyCLIP`.

    Args:
        student_image: Unit vectors of the student's one tower, ``(B, D_s)``.
        student_text: Of its other tower, ``(B, D_s)``.
        teacher_image: Unit vectors of the teacher's one tower, ``(B, D_t)``.
        teacher_text: Of its other tower, ``(B, D_t)``.
        temperature: Divides the student's cosines.
        teacher_temperature: Divides the teacher's.

    Returns:
        A scalar.

    Raises:
        InputError: If the vectors are not of the same samples, or a temperature is not positive.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> certain = tinyclip(x, x, x, x, temperature=0.01, teacher_temperature=0.01)
        >>> wrong = tinyclip(x, x.flip(0), x, x, temperature=0.01, teacher_temperature=0.01)
        >>> round(certain.item(), 3), round(wrong.item(), 3)
        (0.0, 100.0)
    """
    check_temperature(temperature)
    check_temperature(teacher_temperature)
    every = (student_image, student_text, teacher_image, teacher_text)
    require(
        all(x.dim() == 2 for x in every)
        and len({len(x) for x in every}) == 1
        and student_image.shape == student_text.shape
        and teacher_image.shape == teacher_text.shape,
        "embeddings of both towers",
        [tuple(x.shape) for x in every],
        "(B, D_s), (B, D_s), (B, D_t), (B, D_t) of the same samples",
    )
    learnt = student_image @ student_text.T / temperature
    taught = teacher_image @ teacher_text.T / teacher_temperature
    of_images = F.cross_entropy(learnt, taught.softmax(1))
    of_texts = F.cross_entropy(learnt.T, taught.T.softmax(1))
    return (of_images + of_texts) / 2


class TinyCLIP(RelationalLoss):
    r"""An image of the batch picks its text, and a text its image, with the probabilities that the teacher has.

    Paper: Wu et al., TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance, ICCV 2023,
        https://arxiv.org/abs/2309.12314

    .. math:: \frac{1}{2} \Big[ \mathrm{CE} \big( \sigma(A^t), \sigma(A^s) \big) + \mathrm{CE} \big( \sigma(A^{t \top}),
        \sigma(A^{s \top}) \big) \Big], \quad A_{ij} = \frac{u_i^\top v_j}{T \, \| u_i \| \, \| v_j \|}

    with the embeddings u of one tower and v of the other, the softmax :math:`\sigma` of each row, and the cross entropy
    :math:`\mathrm{CE}(p, q) = - \frac{1}{B} \sum_{ij} p_{ij} \log q_{ij}`.

    Two pairs of layers are the two towers, of images and texts, say. One pair is a batch of two stacked views, as data
    with ``strong_view: true`` gives it: its first half is the one tower and its second half the other, and a picture
    picks its other view among those of the batch. The embeddings of student and teacher may differ in length.

    Args:
        temperature: Divides the student's cosines, the reciprocal of CLIP's ``logit_scale``, which starts at 0.07.
        teacher_temperature: Divides the teacher's; a trained CLIP has 0.01. Default: the same as the student's.
        gather: Compare the samples of all ranks instead of this rank's alone (with gradients).
        layers: Student module path to teacher module path, for the one tower and then for the other, or one pair for a
            batch of two stacked views. Default: one pair, the pooled vectors of both networks.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)`` of both towers, the last two averaged;
        ``(2 B, ...)`` where one pair is two views. Output a scalar.

    Raises:
        InputError: If a temperature is not positive, ``layers`` are more than two pairs, an activation is no vector,
            map or tokens, or two views are of an odd number of samples.

    Traps:
        - It is a cross entropy: a student that equals its teacher has the teacher's entropy, not 0.
        - The value depends on the batch: without ``gather`` a sample picks among those of its own device.
        - The temperatures are numbers: the authors train the student's with it, as CLIP does.

    Code: ``microsoft/Cream:TinyCLIP/src/open_clip/clip_soft_loss.py``, equal to this. There a rank compares its own
        samples with those of all ranks; with ``gather`` each compares all with all, and the mean is the same.

    Example:
        >>> import torch
        >>> features = {"image": torch.randn(4, 8), "text": torch.randn(4, 8)}
        >>> outputs = Outputs(torch.zeros(4, 10), features)
        >>> TinyCLIP(layers={"image": "image", "text": "text"})(outputs, outputs, torch.arange(4)).shape
        torch.Size([])
    """

    default_view = "pooled"

    def __init__(
        self,
        temperature: float = 0.07,
        teacher_temperature: float | None = None,
        gather: bool = False,
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(gather=gather, layers=layers, weight=weight, teacher=teacher)
        check_temperature(temperature)
        if teacher_temperature is not None:
            require(teacher_temperature > 0, "teacher_temperature", teacher_temperature, "positive")
        require(len(self.layers) <= 2, "layers", self.layers, "two towers, or one pair for two stacked views")
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Cross entropy of the affinities in both directions."""
        pairs = self.pairs(student, teacher)
        (s_one, s_other), (t_one, t_other) = (self._towers([pair[i] for pair in pairs]) for i in (0, 1))
        taught = self.temperature if self.teacher_temperature is None else self.teacher_temperature
        return tinyclip(s_one, s_other, t_one, t_other, self.temperature, taught)

    def _towers(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        if len(features) == 1:
            (both,) = features
            require(len(both) % 2 == 0, "batch", len(both), "two stacked views of each sample (strong_view: true)")
            features = list(both.chunk(2))
        one, other = (_unit(x) for x in features)
        return (gathered(one), gathered(other)) if self.gather else (one, other)


@fp32
def _unit(feature: Tensor) -> Tensor:
    return unit(pooled(feature))
