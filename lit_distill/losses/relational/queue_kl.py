"""Similarities to a queue of the teacher's latest embeddings: classes that nobody labelled."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.directions import unit
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import divided
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import pooled


@fp32
def queue_kl(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    temperature: float | Tensor = 0.07,
    teacher_temperature: float | Tensor = 0.07,
) -> Tensor:
    r"""Divergence between the similarities to a queue; the formula stands in :class:`QueueKL`.

    Args:
        student: Unit vectors of the student, in the teacher's space, ``(B, D)``.
        teacher: Unit vectors of the teacher, ``(B, D)``.
        queue: Unit vectors of the teacher, ``(K, D)``.
        temperature: Divides the student's cosines.
        teacher_temperature: Divides the teacher's.

    Returns:
        A scalar, the mean over samples.

    Example:
        >>> x = torch.eye(3)
        >>> queue_kl(x, x, x)
        tensor(0.)
    """
    check_temperature(temperature)
    check_temperature(teacher_temperature)
    rows = queue.to(teacher.dtype).T
    return forward_kl(divided(student @ rows, temperature), divided(teacher @ rows, teacher_temperature)).mean()


class Queue(nn.Module):
    """The latest rows that were put in, the newest first.

    Checkpoints hold it as extra state. As a buffer DDP would send it to all ranks before every step, and a module in
    half precision would round it.

    Args:
        size: How many rows are kept.
        width: Length of a row.

    Example:
        >>> queue = Queue(size=3, width=1)
        >>> for rows in ([[1.0], [2.0]], [[3.0], [4.0]]):
        ...     queue.put(queue.with_first(torch.tensor(rows)))
        >>> queue.with_first(torch.zeros(0, 1)).flatten().tolist()
        [3.0, 4.0, 1.0]
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.rows = torch.zeros(size, width)
        self.filled = 0

    def with_first(self, rows: Tensor) -> Tensor:
        """What the queue would be with these rows put in, ``(at most size, D)``.

        Args:
            rows: ``(B, D)``.
        """
        kept = self.rows[: self.filled].to(rows.device)
        return torch.cat([rows.to(kept.dtype), kept])[: len(self.rows)]

    def put(self, queue: Tensor) -> None:
        """Become what :meth:`with_first` said; never in place, for the backward pass of the step needs what was.

        Args:
            queue: ``(at most size, D)``.
        """
        self.filled = len(queue)
        missing = len(self.rows) - self.filled
        self.rows = torch.cat([queue, queue.new_zeros(missing, queue.shape[1])]) if missing else queue

    def get_extra_state(self) -> dict[str, Tensor]:
        """Everything, for checkpoints."""
        return {"rows": self.rows, "filled": torch.tensor(self.filled)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If it has another size or length of rows.
        """
        given, own = tuple(state["rows"].shape), tuple(self.rows.shape)
        if given != own:
            raise InputError(f"size, and the width of the teacher, must be those of the checkpoint, {given}, got {own}")
        self.rows = state["rows"].clone()
        self.filled = int(state["filled"])


class QueueKL(RelationalLoss):
    r"""An image resembles each of the teacher's latest images as much as it does for the teacher.

    Paper: Fang et al., SEED: Self-supervised Distillation for Visual Representation, ICLR 2021,
        https://arxiv.org/abs/2101.04731

    .. math:: \frac{1}{B} \sum_b \mathrm{KL} \Big( \mathrm{softmax}_k \frac{t_b^\top q_k}{T_t} \,\Big\|\,
        \mathrm{softmax}_k \frac{s_b^\top q_k}{T} \Big), \quad s = \mathrm{unit}(P f^s), \quad t = \mathrm{unit}(f^t)

    with a queue q of the teacher's embeddings of the latest samples, those of this step among them, and a linear map P
    to the teacher's length, which is trained with the student and dropped after. It needs no label and no logits: the
    teacher may be one that was trained without any. ``lightly-train`` takes it with weight 1, together with
    :class:`TokenRelation`, images mixed with each other, and no other term.

    The queue is in checkpoints. Under DDP and FSDP2 all ranks have the same one, of the samples of all of them; two
    ranks do what one does.

    Args:
        size: Embeddings kept, K. For small sets a quarter to a half of their size: a sample that is in the queue from
            its last epoch has itself as its neighbour.
        temperature: Divides the student's cosines, T.
        teacher_temperature: Divides the teacher's, :math:`T_t`. Default: the same. SEED has 0.2 and 0.01.
        layers: One student module path to one teacher module path. Default: the pooled vectors of both.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, the last two averaged; output a scalar.

    Raises:
        InputError: If a number is out of its range, ``layers`` are not one pair, or the loss is called before
            :meth:`build`.

    Traps:
        - The queue is that of the teacher's layer: another one needs a new run.
        - In the first steps it is short, and grows with each.
        - Where the size is no multiple of the batch of all ranks, which of the oldest samples stay depends on how many
          ranks share the batch.

    Code: ``lightly-ai/lightly-train:src/lightly_train/_methods/distillationv3``, equal to this once the queue is full;
        there rows not yet filled are zeros, which a sample resembles with cosine 0, and each process has a queue of its
        own. SEED (``microsoft/SEED``) has the cross entropy, which differs by the teacher's entropy alone, and of this
        step only a sample's own embedding in the queue.

    Example:
        >>> student = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 8)})
        >>> teacher = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 16)})
        >>> loss = QueueKL(size=16, layers={"pool": "pool"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.arange(4)).shape
        torch.Size([])
    """

    default_view = "pooled"

    def __init__(
        self,
        size: int = 8192,
        temperature: float = 0.07,
        teacher_temperature: float | None = None,
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(layers=layers, weight=weight, teacher=teacher)
        require(size >= 1, "size", size, "at least 1")
        check_temperature(temperature)
        if teacher_temperature is not None:
            require(teacher_temperature > 0, "teacher_temperature", teacher_temperature, "positive")
        require(len(self.layers) <= 1, "layers", self.layers, "one pair: there is one queue")
        self.size = size
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.projector: nn.Linear | None = None
        self.queue: Queue | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear map, on the device of the student's features, and an empty queue.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        ((s, t),) = self.pairs(student, teacher)
        dtype = torch.promote_types(s.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        width = pooled(t).shape[1]
        self.projector = nn.Linear(pooled(s).shape[1], width, device=s.device, dtype=dtype)
        self.queue = Queue(self.size, width)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergence of the similarities; in training the queue moves on."""
        if self.projector is None or self.queue is None:
            raise InputError("QueueKL must be built with the outputs of a dry run before it is called, got no build()")
        ((s, t),) = self.pairs(student, teacher)
        s, t = _embedding(s, self.projector.weight, self.projector.bias), _embedding(t)
        queue = self.queue.with_first(gathered(t))
        if self.training:
            self.queue.put(queue)
        taught = self.temperature if self.teacher_temperature is None else self.teacher_temperature
        return queue_kl(s, t, queue, self.temperature, taught)


@fp32
def _embedding(feature: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A unit vector a sample, ``(B, D)``: linearly mapped, if there is a map."""
    vectors = pooled(feature)
    return unit(vectors if weight is None else F.linear(vectors, weight, bias))
