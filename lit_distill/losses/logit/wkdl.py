"""Wasserstein distance between predictions: probability moved between similar classes costs little."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.classifier import classifier_of
from lit_distill.losses.divergences.rows import divided, reduce_rows
from lit_distill.losses.known_gradient import in_pieces
from lit_distill.losses.labels import hard_labels, ruled_out
from lit_distill.losses.precision import fp32

# Added to costs and denominators, as in the authors' code.
SMALL = 1e-8


@fp32
def class_costs(prototypes: Tensor, sharpness: float = 1.0) -> Tensor:
    r"""Cost of moving probability from class to class, little between similar ones.

    .. math:: c_{ij} = 1 - e^{-\kappa (1 - \cos(w_i, w_j))}

    Args:
        prototypes: One vector a class: the rows of the teacher's classifier, or mean features, ``(C, D)``.
        sharpness: The factor :math:`\kappa`.

    Returns:
        Costs, ``(C, C)``, 0 on the diagonal.

    Example:
        >>> class_costs(torch.eye(2))
        tensor([[0.0000, 0.6321],
                [0.6321, 0.0000]])
    """
    unit = F.normalize(prototypes)
    return 1 - torch.exp(-sharpness * (1 - unit @ unit.T).clamp(min=0))


@fp32
def wkdl(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    costs: Tensor,
    gamma: float = 600.0,
    temperature: float = 8.0,
    regularisation: float = 0.05,
    iterations: int = 10,
) -> Tensor:
    """Cross entropy of the label, and the cost of moving the student's other classes to the teacher's.

    The formula is that of :class:`WKDL`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        costs: Cost of moving from the student's class (row) to the teacher's (column), ``(C, C)``; no gradient flows
            into them.
        gamma: Factor of the transport.
        temperature: Divides both logits in the transport.
        regularisation: Entropy of the transport plan, in units of cost.
        iterations: Of Sinkhorn's algorithm.

    Returns:
        A scalar.

    Example:
        >>> wkdl(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0]), 1 - torch.eye(3), gamma=0.0)
        tensor(0.3662)
    """
    check_same_shape(student, teacher, "logits")
    classes = student.shape[-1]
    require(costs.shape == (classes, classes), "costs", tuple(costs.shape), f"of shape {(classes, classes)}")
    labels = hard_labels(target, student)
    at_label = labels.unsqueeze(-1)
    log_q, log_p = ((x.gather(-1, at_label) - x.logsumexp(-1, keepdim=True)).squeeze(-1) for x in (student, teacher))
    loss = reduce_rows(-log_p.exp() * log_q)

    costs = costs.detach().relu().add_(SMALL)
    kernel = (costs / -regularisation).exp_()
    if isinstance(temperature, Tensor):  # its gradient is left to autograd
        student, teacher, temperature = divided(student, temperature), divided(teacher, temperature), 1.0
    transport = partial(
        _transport, kernel=kernel, weighted=costs.mul_(kernel), temperature=temperature, iterations=iterations
    )
    return loss + gamma * reduce_rows(in_pieces(transport, student, teacher, labels))


def _transport(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    kernel: Tensor,
    weighted: Tensor,
    temperature: float,
    iterations: int,
) -> Tensor:
    """Cost of each row's regularised transport plan between the classes other than the label: ``(B, C) -> (B,)``.

    A class without probability takes no part in the plan, so that one matrix of costs serves all rows.
    """
    q, p = (ruled_out(divided(logits, temperature), labels).softmax(-1) for logits in (student, teacher))
    u = torch.full_like(q, 1 / (q.shape[-1] - 1)).scatter(-1, labels.unsqueeze(-1), 0.0)
    v = p
    for _ in range(iterations):
        v = p / (u @ kernel + SMALL)
        u = q / (v @ kernel.T + SMALL)
    return (u * (v @ weighted.T)).sum(-1)


class WKDL(LogitLoss):
    r"""Wasserstein distance between predictions, under which similar classes lie close (WKD-L).

    Paper: Lv, Yang, Li, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS
        2024, https://arxiv.org/abs/2412.08139

    .. math:: \frac{1}{B} \sum_b -p_y \log q_y + \gamma \sum_{i, j \neq y} \pi_{ij} c_{ij}, \quad
        c_{ij} = 1 - e^{-\kappa (1 - s_{ij})}

    with teacher p and student q, the label y, the similarity :math:`s_{ij}` of two classes, and the plan :math:`\pi`
    that moves the student's probabilities of the classes other than y, softened by T, to the teacher's: the cheapest
    one up to an entropy of :math:`\lambda`, after a few iterations of Sinkhorn's algorithm.

    On CIFAR-100 the authors take these defaults beside cross entropy with weight 1, and let :math:`\gamma` fall to 0
    from epoch 150 of 240 on (callback ``Schedule`` with path ``losses.wkdl.gamma``, shape ``cosine`` and begin
    0.625); on ImageNet :math:`\gamma = 30` and T = 2.

    Args:
        gamma: Factor of the transport; a schedule lowers it.
        temperature: Divides the logits of both networks in the transport.
        costs: Path of a file ``.npy`` of costs :math:`c_{ij}`, ``(C, C)``. Default: made of the teacher's classifier,
            with the cosine of two classes' weights as their similarity (see ``sharpness``).
        sharpness: The factor kappa, where the costs are made of the teacher's classifier.
        classifier: Path of the teacher's classifier. Default: found.
        regularisation: Entropy lambda of the transport plan, in units of cost.
        iterations: Of Sinkhorn's algorithm; memory grows with them.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If a hyperparameter is out of range, the costs are not ``(C, C)`` or cannot be read, the teacher has
            no linear classifier, the shapes of the logits differ, the target does not fit them, or the loss is called
            before :meth:`attach`.

    Traps:
        - No factor :math:`T^2`: a large :math:`\gamma` stands in for it.
        - The cross entropy of the label is not 0 for a student that equals its teacher, and neither is the transport,
          as a plan with entropy moves more than it must.
        - The published numbers come from similarities of the teacher's features over the training set (centred kernel
          alignment of two classes' images); those of its classifier are the option ``fc`` of the authors' code.

    Code: ``JiamingLv/WKD:mdistiller/distillers/WKD.py``, equal to this.

    Example:
        >>> outputs = Outputs(torch.zeros(2, 3))
        >>> loss = WKDL()
        >>> loss.attach(nn.Linear(4, 3), nn.Linear(4, 3))
        >>> loss(outputs, outputs, torch.tensor([0, 2])).shape
        torch.Size([])
    """

    cost_matrix: Tensor

    def __init__(
        self,
        gamma: float = 600.0,
        temperature: float = 8.0,
        costs: str | None = None,
        sharpness: float = 1.0,
        classifier: str | None = None,
        regularisation: float = 0.05,
        iterations: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(gamma >= 0, "gamma", gamma, "0 or positive")
        check_temperature(temperature)
        require(sharpness > 0, "sharpness", sharpness, "positive")
        require(regularisation > 0, "regularisation", regularisation, "positive")
        require(iterations > 0, "iterations", iterations, "positive")
        self.gamma = gamma
        self.temperature = temperature
        self.costs = costs
        self.sharpness = sharpness
        self.classifier = classifier
        self.regularisation = regularisation
        self.iterations = iterations
        # not in checkpoints: it comes from the teacher, or from the file
        self.register_buffer("cost_matrix", torch.empty(0, 0), persistent=False)

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Read the costs, or make them of the teacher's classifier.

        Args:
            student: Not asked.
            teacher: The whole teacher.
        """
        if self.costs is not None:
            self.cost_matrix = _read(self.costs).to(self.cost_matrix.device)
        else:
            weight = classifier_of(teacher, self.classifier, "classifier", member=self.teacher).weight
            self.cost_matrix = class_costs(weight.detach(), self.sharpness)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Cross entropy of the label and weighted cost of the transport, mean over the batch."""
        if not len(self.cost_matrix):
            raise InputError("WKDL must meet the teacher before it is called, got no attach()")
        return wkdl(
            student.logits,
            teacher.logits,
            target,
            self.cost_matrix,
            self.gamma,
            self.temperature,
            self.regularisation,
            self.iterations,
        )


def _read(path: str) -> Tensor:
    try:
        costs = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"costs must be the path of a file .npy of numbers, got {path!r}: {error}") from error
    require(
        costs.dim() == 2 and costs.shape[0] == costs.shape[1], "costs", tuple(costs.shape), "a square matrix (C, C)"
    )
    return costs
