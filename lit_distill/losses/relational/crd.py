"""Contrastive representation distillation: a sample's two embeddings find each other among those of other classes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.gather import gathered
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32
from lit_distill.losses.relational.banks import Banks, negatives
from lit_distill.losses.views import pooled


@fp32
def crd_embedding(feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map to a unit vector.

    Args:
        feature: Vectors ``(B, F)``; maps and tokens are averaged.
        weight: ``(D, F)``.
        bias: ``(D,)``.

    Returns:
        ``(B, D)``.
    """
    return F.normalize(F.linear(pooled(feature), weight, bias))


@fp32
def crd_scores(anchor: Tensor, bank: Tensor, rows: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Cosines of anchors with rows of a bank, over the temperature.

    Of all rows first, ``B N`` numbers, and those asked for are picked then: to copy the rows themselves, ``B K D``
    numbers, takes many times the time and the memory.

    Args:
        anchor: Unit vectors ``(B, D)``.
        bank: Unit vectors ``(N, D)``.
        rows: Which rows for which anchor, int64 ``(B, 1 + K)``.
        temperature: Divides the cosines.

    Returns:
        ``(B, 1 + K)``.
    """
    return (anchor @ bank.to(anchor.dtype).T).gather(1, rows) / temperature


@torch.no_grad()
def log_mean_exp(scores: Tensor) -> Tensor:
    """Logarithm of the mean exponential of all scores of all ranks, without overflow."""
    own = torch.stack([scores.logsumexp((0, 1)), scores.new_tensor(math.log(scores.numel()))])
    sums, counts = gathered(own.unsqueeze(0)).unbind(1)
    return sums.logsumexp(0) - counts.logsumexp(0)


@fp32
def crd_nce(scores: Tensor, log_mean: Tensor, samples: int) -> Tensor:
    r"""Is a pair one of a sample with itself, or one of K with noise? The loss of one direction of :class:`CRD`.

    .. math:: - \frac{1}{B} \sum_b \Big[ \log \frac{r_{b0}}{r_{b0} + K + \epsilon N} + \sum_{k=1}^{K} \log \frac{K}{
        r_{bk} + K + \epsilon N} \Big], \quad r = \frac{\exp s}{\mu}, \quad \epsilon = 10^{-7}

    Args:
        scores: s, ``(B, 1 + K)``; the first is that of the sample with itself.
        log_mean: :math:`\log \mu`, the mean of exponentials that makes scores probabilities.
        samples: N, of no importance but for :math:`\epsilon`, which the authors add.

    Returns:
        A scalar.

    Example:
        >>> bool(crd_nce(torch.tensor([[0.0, 0.0]]), torch.tensor(0.0), samples=10) - 2 * math.log(2) < 1e-5)
        True
    """
    count = scores.shape[1] - 1
    little = math.log1p(1e-7 * samples / count)
    # log(r / (K + epsilon N)): softplus keeps the digits of the many negatives, each of which is nearly 0
    odds = scores - (log_mean + math.log(count) + little)
    return (F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)).mean() + count * little


class CRD(RelationalLoss):
    r"""A sample's embedding by the student finds the teacher's of the same sample among those of other classes.

    Paper: Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699

    .. math:: L(v^s, W^t) + L(v^t, W^s), \quad L(v, W) = - \frac{1}{B} \sum_b \Big[ \log \frac{r_{b0}}{r_{b0} + K} +
        \sum_{k=1}^{K} \log \frac{K}{r_{bk} + K} \Big], \quad r_{bk} = \frac{1}{\mu} \exp \frac{v_b^\top W_{i_{bk}}}{T}

    with unit vectors v, linear maps of the pooled features, both trained, and one row of a bank W for each sample and
    network, :math:`i_{b0}` being the sample itself. After each step the rows of its samples become
    :math:`\mathrm{unit}(m W_i + (1 - m) v_i)`. The constant :math:`\mu`, one a direction, is the mean of the first
    step's exponentials. The benchmark of CRD on CIFAR-100 takes weight 0.8 beside cross entropy with weight 1.

    Negatives are drawn among the samples of other classes seen so far, those of this step included, on the device and
    with a generator of the step: a resumed run draws what an uninterrupted one would have. Banks, classes seen and
    :math:`\mu` are in checkpoints. Under DDP and FSDP2 all ranks have the same banks, of the samples of all of them,
    whatever a rank's own part of the batch; two ranks do what one does.

    Args:
        samples: Rows of each bank: the size of the full training set, whose positions are ``sample_index``. Positions
            that never come take memory and nothing else.
        embedding: Length of the vectors v.
        negatives: How many a sample, K.
        temperature: Divides the cosines.
        momentum: How much of a row an update keeps, m.
        seed: Of the negatives, and of the rows of samples not yet seen.
        layers: One student module path to one teacher module path. Default: the pooled vectors of both.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, the last two averaged; target ``(B,)``, or
        ``(B, C)`` of which the likeliest class counts; ``sample_index`` ``(B,)``; output a scalar.

    Raises:
        InputError: If a number is out of its range, ``layers`` are not one pair, the loss is called before
            :meth:`build`, the data gives no ``sample_index``, or one that is not below ``samples``.

    Traps:
        - The data module needs ``index: true``.
        - The teacher's linear map is trained too, and the student is compared with the bank of the teacher.
        - Two banks of N D numbers in float32: 1.3 GB for ImageNet, and in each step 2 B N scores.
        - In the first steps few samples were seen, and negatives repeat themselves.
        - Under mixup a row belongs to the mixture's likelier class.

    Code: ``HobbitLong/RepDistiller:crd/criterion.py`` and ``crd/memory.py``, equal to this for the same negatives.
        There the data set draws them, sample by sample and without replacement, from lists by class that it makes
        beforehand; a loss knows no labels but those it was shown. From the second epoch on both draw from the same
        samples; in the first, theirs may lie in rows not yet written, which point in random directions. With several
        processes each of theirs has banks of its own.

    Example:
        >>> student = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 8)}, torch.tensor([7, 1, 5, 0]))
        >>> teacher = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 16)})
        >>> loss = CRD(samples=8, negatives=6, layers={"pool": "pool"}, weight=0.8)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 0, 1, 2])).shape
        torch.Size([])
    """

    default_view = "pooled"

    def __init__(
        self,
        samples: int,
        embedding: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(layers=layers, weight=weight, teacher=teacher)
        require(samples >= 1, "samples", samples, "at least 1")
        require(embedding >= 1, "embedding", embedding, "at least 1")
        require(negatives >= 1, "negatives", negatives, "at least 1")
        check_temperature(temperature)
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(len(self.layers) <= 1, "layers", self.layers, "one pair: a sample has one row in a bank")
        self.samples = samples
        self.embedding = embedding
        self.negatives = negatives
        self.temperature = temperature
        self.banks = Banks(samples, embedding, momentum, seed)
        self.embed_student: nn.Linear | None = None
        self.embed_teacher: nn.Linear | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create both linear maps, on the device of the features.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        ((s, t),) = self.pairs(student, teacher)
        self.embed_student, self.embed_teacher = self._linear(s), self._linear(t)

    def _linear(self, example: Tensor) -> nn.Linear:
        dtype = torch.promote_types(example.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        return nn.Linear(pooled(example).shape[1], self.embedding, device=example.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The loss of both directions; in training both banks move on."""
        if self.embed_student is None or self.embed_teacher is None:
            raise InputError("CRD must be built with the outputs of a dry run before it is called, got no build()")
        if student.sample_index is None:
            raise InputError("sample_index must come with each batch for CRD (index: true of the data), got none")
        ((s, t),) = self.pairs(student, teacher)
        v_s = crd_embedding(s, self.embed_student.weight, self.embed_student.bias)
        v_t = crd_embedding(t, self.embed_teacher.weight, self.embed_teacher.bias)
        index, labels = student.sample_index, hard_labels(target, student.logits)
        self._check(index)

        state = self.banks.on(v_s.device)
        all_index, all_labels = gathered(torch.stack([index, labels], 1)).unbind(1)
        classes = state["classes"].scatter(0, all_index, all_labels)
        draws = self.banks.draws(len(all_index), self.negatives, v_s.device)
        own = torch.searchsorted(all_index.sort().values, index)  # by sample, wherever in the batch it stands
        rows = torch.cat([index.unsqueeze(1), negatives(classes, labels, draws[own])], 1)
        scores = [
            crd_scores(v_s, state["teacher"], rows, self.temperature),
            crd_scores(v_t, state["student"], rows, self.temperature),
        ]
        log_means = state["log_means"] if self.banks.steps else torch.stack([log_mean_exp(x) for x in scores])
        if self.training:
            both = gathered(torch.cat([v_s, v_t], 1).detach())
            self.banks.remember(all_index, both, classes, log_means)
        one, other = (crd_nce(x, mean, self.samples) for x, mean in zip(scores, log_means, strict=True))
        return one + other

    def _check(self, index: Tensor) -> None:
        # An accelerator has to wait for the answer: it is asked for the first epoch, in which all positions come.
        if index.device.type == "cpu" or self.banks.steps * len(index) <= self.samples:
            highest = int(index.max())
            require(highest < self.samples, "samples", self.samples, f"above every sample_index, one is {highest}")
