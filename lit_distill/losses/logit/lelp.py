"""Learning embedding linear projections: the teacher's last feature splits each class into pseudo-subclasses."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.auxiliary import AuxiliaryHead
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.classifier import classifier_of
from lit_distill.losses.divergences.rows import kl_rows, log_probs, reduce_rows
from lit_distill.losses.gather import gathered
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32


@fp32
def subclass_projections(
    embeddings: Tensor, labels: Tensor, classifier: Tensor, subclasses: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Linear maps from an embedding to one coordinate for each subclass of each class.

    The principal components of a class are taken in the null space of the classifier, which hides them from the
    logits, and rotated at random, so that each coordinate has the same variance in expectation, here 1.

    .. math:: k_{cs}(h) = v_{cs}^\top (h - \mu_c), \quad v_{cs} = \sqrt{\tfrac{S}{\sum_j \lambda_{cj}}}
        \sum_{j=1}^{S} Q_{sj} u_{cj}

    with the class's mean :math:`\mu_c`, its components :math:`u_{cj}` of variance :math:`\lambda_{cj}`, and a random
    orthogonal Q.

    Args:
        embeddings: What the teacher's classifier sees of N samples, ``(N, D)``.
        labels: Their classes, ``(N,)``.
        classifier: Weights of the teacher's classifier, ``(C, D)``.
        subclasses: How many to a class, S.
        seed: Of the rotation.

    Returns:
        ``(v, offset)``, ``(C, S, D)`` and ``(C, S)``; the coordinates of h are ``v @ h + offset``. A class without
        samples, or whose samples do not differ in the null space, has zeros: all its subclasses are equally likely.

    Raises:
        InputError: If the classifier leaves no null space.

    Example:
        >>> embeddings = torch.tensor([[1.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
        >>> v, offset = subclass_projections(embeddings, torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0]] * 2), 1)
        >>> (v @ torch.tensor([5.0, 4.0]) + offset).abs()
        tensor([[2.],
                [0.]])
    """
    answered = _row_space(classifier)
    free = embeddings - embeddings @ answered.T @ answered
    rotation = torch.linalg.qr(torch.randn(subclasses, subclasses, generator=torch.Generator().manual_seed(seed))).Q
    smallest = 1e-6 * embeddings.norm(dim=1).max()
    v = free.new_zeros(len(classifier), subclasses, free.shape[1])
    offset = free.new_zeros(v.shape[:2])
    for c in range(len(classifier)):
        rows = free[labels == c]
        if len(rows) == 0:
            continue
        mean = rows.mean(0)
        _, lengths, axes = torch.linalg.svd(rows - mean, full_matrices=False)
        deviations = lengths[:subclasses] / len(rows) ** 0.5
        extends = deviations > smallest  # and not by rounding alone
        unit = torch.where(extends.any(), (deviations.square().sum() / subclasses).sqrt(), 1)
        v[c] = rotation.to(free)[:, : len(deviations)] @ (axes[:subclasses] * extends.unsqueeze(-1)) / unit
        offset[c] = -v[c] @ mean
    return v, offset


def _row_space(classifier: Tensor) -> Tensor:
    """An orthonormal basis of the directions that the logits see, ``(R, D)``."""
    _, sizes, axes = torch.linalg.svd(classifier, full_matrices=False)
    basis = axes[sizes > 1e-5 * sizes.max()]
    require(
        len(basis) < classifier.shape[1],
        "classifier",
        f"{len(basis)} independent directions of {classifier.shape[1]}",
        "one that sees fewer directions than the embedding has, or there is nothing beside the logits to learn",
    )
    return basis


@fp32
def lelp(
    student: Tensor,
    split: Tensor,
    teacher: Tensor,
    coordinates: Tensor,
    temperature: float = 4.0,
    sharpness: float = 1.0,
) -> Tensor:
    """Divergence over all subclasses of all classes: of the classes, and of each class's subclasses.

    The formula is that of :class:`LELP`.

    Args:
        student: Logits of the student, ``(B, C)``.
        split: The student's logits of the subclasses within each class, ``(B, C, S)``.
        teacher: Logits of the teacher, ``(B, C)``.
        coordinates: The teacher's coordinates within each class, ``(B, C, S)``.
        temperature: Divides all logits, but not the coordinates.
        sharpness: Multiplies the coordinates.

    Returns:
        A scalar.

    Example:
        >>> equal = torch.zeros(1, 2, 2)
        >>> lelp(equal[:, 0], equal, equal[:, 0], torch.tensor([[[99.0, 0.0], [99.0, 0.0]]]), temperature=1.0)
        tensor(0.6931)
    """
    check_same_shape(split, coordinates, "subclasses")
    log_q, log_p = log_probs(student, teacher, temperature)
    within_q, within_p = (split / temperature).log_softmax(-1), (sharpness * coordinates).log_softmax(-1)
    within = log_p.exp() * kl_rows(within_p, within_q)
    return temperature**2 * reduce_rows(kl_rows(log_p, log_q) + within.sum(-1))


class LELP(LogitLoss):
    r"""The teacher's last feature splits each class into pseudo-subclasses, and the student learns their probabilities.

    Paper: Loo et al., Linear Projections of Teacher Embeddings for Few-Class Distillation, arXiv 2024,
        https://arxiv.org/abs/2409.20449

    .. math:: \frac{T^2}{B} \sum_b \sum_{c, s} p_{bcs} \log \frac{p_{bcs}}{q_{bcs}}, \quad p_{cs} = \mathrm{softmax}_c
        \big( z^t / T \big) \, \mathrm{softmax}_s \big( \beta k_c(h) \big), \quad q_{cs} = \mathrm{softmax}_c \big(
        z^s / T \big) \, \mathrm{softmax}_s \big( a_c / T \big)

    A teacher of two classes says little in its logits. What it knows beyond them lies in the embedding h that its
    classifier sees: the coordinates :math:`k_{cs}` are projections of h on the principal components of class c in the
    classifier's null space, rotated at random (:func:`subclass_projections`). The student's subclasses a come from a
    second, linear head on its own last feature, built from the shapes of a dry run and dropped after training. With one
    subclass this is ``KD``. The authors train with this term alone, without labels.

    The projections come from the first ``samples`` samples of training, whatever the number of processes. Until then
    all subclasses are equally likely; after, they stay, and checkpoints hold them. :meth:`fit` takes samples at once,
    before training.

    Args:
        layer: Path of what the student's own classifier sees: a map or tokens, which are averaged, or a vector.
        classifier: Path of the teacher's classifier, a linear layer (of an ensemble's member:
            ``members.<name>.<path>``). Its input is the embedding.
        subclasses: How many pseudo-subclasses to a class, S.
        temperature: Divides the logits of both networks and of the second head.
        sharpness: Factor :math:`\beta` of the coordinates, whose standard deviation within a class is about 1; the
            larger, the more certain the teacher is of a subclass.
        samples: From how many samples the projections come. Checkpoints hold their embeddings.
        seed: Of the random rotation.

    Shape:
        Feature of the student ``(B, E, H, W)``, ``(B, N, E)`` or ``(B, E)``; embedding of the teacher ``(B, D)``;
        logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a scalar.

    Raises:
        InputError: If a hyperparameter is out of range, ``classifier`` is no linear layer or sees all directions of the
            embedding, a feature or the shapes of the logits do not fit, or the loss is called before :meth:`build`.

    Traps:
        - Needs an embedding wider than the number of classes, or the null space is empty.
        - In a training of fewer than ``samples`` samples, epochs together, the subclasses never tell anything.
        - For many classes a large part of the value is about classes that the teacher rules out at T = 1: the higher
          T, the more their subclasses count.

    Code: ``google-research/google-research:subclass_distillation/mnist_colab.ipynb`` is the method that this one spares
        the retraining of the teacher; the authors of this one released none, and it follows their description. Ours
        are the unit of the coordinates, where T enters, the share of the training set that the components come from
        (theirs: all), and the two heads: their student has one head of C S outputs and sums the probabilities of a
        class's subclasses. At T = 1 that is the same divergence, but leaves a student with another last layer.

    Example:
        >>> feature = {"fc:input": torch.randn(2, 16)}
        >>> outputs = Outputs(torch.zeros(2, 3), feature)
        >>> loss = LELP(layer="fc:input", classifier="fc")
        >>> teacher = nn.ModuleDict({"fc": nn.Linear(16, 3)})
        >>> loss.attach(teacher, teacher)
        >>> loss.build(outputs, outputs)
        >>> loss(outputs, outputs, torch.tensor([0, 2])).shape
        torch.Size([])
    """

    classifier_weight: Tensor
    seen: Tensor
    embeddings: Tensor
    labels: Tensor
    projections: Tensor
    offsets: Tensor

    def __init__(
        self,
        layer: str,
        classifier: str,
        subclasses: int = 4,
        temperature: float = 4.0,
        sharpness: float = 1.0,
        samples: int = 2048,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(subclasses >= 1, "subclasses", subclasses, "at least 1")
        check_temperature(temperature)
        require(sharpness > 0, "sharpness", sharpness, "positive")
        require(samples >= 1, "samples", samples, "at least 1")
        self.layers = {layer: f"{classifier}:input"}
        self.classifier = classifier
        self.subclasses = subclasses
        self.temperature = temperature
        self.sharpness = sharpness
        self.samples = samples
        self.seed = seed
        self.head: AuxiliaryHead | None = None
        # beside the count of the buffers, so that no step has to ask an accelerator for a number
        self.fitted = False
        self.register_load_state_dict_post_hook(_look_again)
        # not in checkpoints: it comes from the teacher
        self.register_buffer("classifier_weight", torch.empty(0, 0), persistent=False)

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Read the weights of the teacher's classifier.

        Args:
            student: Not asked.
            teacher: The whole teacher.
        """
        self.classifier_weight = classifier_of(teacher, self.classifier, "classifier").weight.detach().clone()
        _row_space(self.classifier_weight.float())

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the second head, and room for the teacher's embeddings, on the device of the features.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        ((layer, embedding),) = self.layers.items()
        classes, width = self.classifier_weight.shape
        self.head = AuxiliaryHead(student.features[layer], classes * self.subclasses, path=layer)
        given = teacher.features[embedding]
        require(given.dim() == 2, "classifier", tuple(given.shape), "a layer that takes vectors (B, D)")
        room = torch.zeros(self.samples, width, device=given.device)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long, device=given.device))
        self.register_buffer("embeddings", room)
        self.register_buffer("labels", torch.zeros(self.samples, dtype=torch.long, device=given.device))
        self.register_buffer("projections", room.new_zeros(classes, self.subclasses, width))
        self.register_buffer("offsets", room.new_zeros(classes, self.subclasses))

    @torch.no_grad()
    def fit(self, embeddings: Tensor, labels: Tensor) -> None:
        """Find the projections; samples of training no longer count.

        Args:
            embeddings: What the teacher's classifier sees, ``(N, D)``.
            labels: Classes, ``(N,)``.
        """
        v, offset = subclass_projections(embeddings, labels, self.classifier_weight, self.subclasses, self.seed)
        self.projections.copy_(v)
        self.offsets.copy_(offset)
        self.seen.fill_(self.samples)
        self.fitted = True

    @torch.no_grad()
    def collect(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep these samples of all ranks for :meth:`fit`, which follows once there are enough."""
        first = int(self.seen)
        self.fitted = first == self.samples
        if not self.fitted:
            embeddings, labels = (gathered(x)[: self.samples - first] for x in (embeddings, labels))
            last = first + len(labels)
            self.embeddings[first:last] = embeddings
            self.labels[first:last] = labels
            self.seen.fill_(last)
            if last == self.samples:
                self.fit(self.embeddings, self.labels)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch, times the square of the temperature."""
        if self.head is None:
            raise InputError("LELP must be built with the outputs of a dry run before it is called, got no build()")
        ((layer, path),) = self.layers.items()
        embedding = teacher.features[path]
        if self.training and not self.fitted:
            self.collect(embedding, hard_labels(target, student.logits))
        split = self.head(student.features[layer]).unflatten(-1, (-1, self.subclasses))
        coordinates = _coordinates(embedding, self.projections, self.offsets)
        return lelp(student.logits, split, teacher.logits, coordinates, self.temperature, self.sharpness)


@fp32
def _coordinates(embedding: Tensor, projections: Tensor, offsets: Tensor) -> Tensor:
    """``(B, D)`` to ``(B, C, S)``."""
    return F.linear(embedding, projections.flatten(0, 1), offsets.flatten()).unflatten(-1, offsets.shape)


def _look_again(term: nn.Module, _: Any) -> None:
    """What was loaded may come from before the projections were found."""
    assert isinstance(term, LELP)
    term.fitted = False
