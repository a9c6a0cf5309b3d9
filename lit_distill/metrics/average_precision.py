"""How well a detector finds objects."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

#: COCO's thresholds of the intersection over union.
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))

#: COCO reads the precision at so many shares of all objects: 0, 0.01, ... 1.
RECALLS = 101

#: COCO looks at so many detections of an image and class, those with the highest scores.
MOST = 100


class AveragePrecision(Metric):
    r"""Mean average precision as COCO defines it, over all images of all ranks.

    .. math:: \mathrm{AP}_{c \tau} = \frac{1}{101} \sum_{r \in \{0, 0.01, ..., 1\}} \max_{r' \geq r} p_{c \tau}(r')

    with the precision p at recall r' of the detections of class c in the order of their scores. A detection is right
    when its box and that of an object of its class, which no better one has taken, have an intersection over union of
    at least :math:`\tau`. :meth:`compute` gives the mean over classes that have objects, and over thresholds.

    Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, https://arxiv.org/abs/1405.0312. Code:
    ``cocodataset/cocoapi:PythonAPI/pycocotools/cocoeval.py``, which this is without crowds and ranges of areas.

    Args:
        thresholds: Of the intersection over union. Default: COCO's, from 0.5 to 0.95.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        >>> said = {"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        >>> metric = AveragePrecision()
        >>> metric.update([said], [{"boxes": box, "labels": torch.tensor([1])}])
        >>> metric.compute()
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    right: list[Tensor]
    found: list[Tensor]
    there: list[Tensor]

    def __init__(self, thresholds: tuple[float, ...] = THRESHOLDS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = thresholds
        self.add_state("scores", [], dist_reduce_fx="cat")  # of each detection
        self.add_state("right", [], dist_reduce_fx="cat")  # whether it is, at each threshold
        self.add_state("found", [], dist_reduce_fx="cat")  # its class
        self.add_state("there", [], dist_reduce_fx="cat")  # class of each object

    def update(self, found: list[dict[str, Tensor]], target: list[dict[str, Tensor]]) -> None:
        """Add one batch.

        Args:
            found: For each image ``boxes`` ``(n, 4)``, ``scores`` ``(n,)`` and ``labels`` ``(n,)``.
            target: For each image ``boxes`` ``(m, 4)`` and ``labels`` ``(m,)``.
        """
        device = self.device
        scores, right, classes = [torch.zeros(0, device=device)], [], [torch.zeros(0, dtype=torch.long, device=device)]
        right.append(torch.zeros(0, len(self.thresholds), dtype=torch.bool, device=device))
        for said, true in zip(found, target, strict=True):
            for label in said["labels"].unique():
                own = said["labels"] == label
                order = said["scores"][own].sort(descending=True, stable=True).indices[:MOST]
                iou = box_iou(said["boxes"][own][order].float(), true["boxes"][true["labels"] == label].float())
                scores.append(said["scores"][own][order].float())
                right.append(matched(iou, self.thresholds))
                classes.append(label.expand(len(order)))
        # something from every batch, even where nothing was found: ranks must have as much to gather
        self.scores.append(torch.cat(scores))
        self.right.append(torch.cat(right))
        self.found.append(torch.cat(classes))
        self.there.append(torch.cat([true["labels"] for true in target]))

    def compute(self) -> Tensor:
        """The mean average precision so far, a scalar in [0, 1]; 0 where there are no objects."""
        there = _all(self.there, self.device)
        if not len(there):
            return torch.zeros((), device=self.device)
        scores, right, found = (_all(state, self.device) for state in (self.scores, self.right, self.found))
        each = []
        for label in there.unique():
            own = found == label
            objects = int((there == label).sum())
            order = scores[own].sort(descending=True, stable=True).indices
            each.append(average_precision(right[own][order], objects) if len(order) else torch.zeros(1))
        return torch.stack([precision.mean().cpu() for precision in each]).mean().float().to(self.device)


def matched(iou: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Which detections are right: each in its turn takes the object that it fits best, of those that are left.

    Args:
        iou: Intersection over union of each detection, in the order of their scores, with each object, ``(n, m)``.
        thresholds: What it must reach at least.

    Returns:
        bool ``(n, thresholds)``.

    Example:
        >>> matched(torch.tensor([[0.9, 0.6], [0.8, 0.7], [0.7, 0.2]]), (0.5, 0.75)).tolist()
        [[True, True], [True, False], [False, False]]
    """
    right = torch.zeros(len(iou), len(thresholds), dtype=torch.bool, device=iou.device)
    if not iou.shape[1]:
        return right
    least = torch.tensor(thresholds, device=iou.device)
    left = iou.expand(len(thresholds), -1, -1).clone()
    for row in range(len(iou)):
        best, which = left[:, row].max(1)
        right[row] = best >= least
        taken = right[row].nonzero()[:, 0]
        left[taken, :, which[taken]] = -1
    return right


def average_precision(right: Tensor, objects: int) -> Tensor:
    """Average precision of one class at each threshold, ``(thresholds,)``.

    Args:
        right: Whether each detection is right, in the order of their scores, bool ``(n, thresholds)``.
        objects: How many objects there are.

    Example:
        >>> average_precision(torch.tensor([[True], [False], [True]]), objects=2)  # 51 times 1 and 50 times 2/3
        tensor([0.8350], dtype=torch.float64)
    """
    right = right.double()
    hits = right.cumsum(0)
    precision = hits / torch.arange(1, len(right) + 1, device=right.device)[:, None]
    best = precision.flip(0).cummax(0).values.flip(0)
    # multiples of 0.01 as COCO rounds them: a recall of exactly 0.57 does not reach 57 * 0.01
    wanted = torch.arange(RECALLS, dtype=torch.float64, device=right.device) * 0.01
    reached = (hits / objects).T.contiguous()  # (thresholds, n)
    first = torch.searchsorted(reached, wanted.expand(len(reached), -1).contiguous())
    padded = torch.cat([best.T, torch.zeros_like(best.T[:, :1])], dim=1)  # 0 at a recall that is never reached
    return padded.gather(1, first).mean(1)


def _all(state: Any, device: torch.device) -> Tensor:
    """What a state holds, whether it was gathered from ranks already or not."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.zeros(0, device=device)
