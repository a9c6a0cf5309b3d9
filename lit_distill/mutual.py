"""Networks that teach each other while they learn."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.core.classification import Batch, ClassificationModule, example_forward
from lit_distill.core.outputs import Outputs
from lit_distill.distiller import detached
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.optim.term_sgd import TermSGD

STUDENT = "student"


class MutualDistiller(ClassificationModule):
    r"""Trains networks together, each on the labels and on what the others answer: nobody is trained before.

    Paper: Zhang, Xiang, Hospedales and Lu, Deep Mutual Learning, CVPR 2018, https://arxiv.org/abs/1706.00384

    .. math:: L_k = \frac{1}{K - 1} \sum_{l \neq k} \sum_i w_i \, \ell_i(z_k, \bar z_l, y)

    with the logits z of K networks, of which :math:`\bar z` carries no gradient, and the terms :math:`\ell_i`. The
    paper's own objective, cross entropy and the mean of :math:`\mathrm{KL}(p_l \,\|\, p_k)` over the others, is
    ``CrossEntropy`` and ``KD`` with temperature 1, each with weight 1.

    Every network answers once a batch, and all of them take their step together. Because nobody's loss has a gradient
    for another network, the sum of all losses and one optimizer do what one optimizer for each would. The paper updates
    the networks in turn and asks the one that has moved again, which doubles the forward passes; the two differ by what
    one step changes in an answer.

    The ``student`` is the network that is validated, reported and written to a file, whichever turns out best. Its
    terms and metrics are called as everywhere (``train/kd``, ``val/acc``), those of a peer end in its name
    (``train/kd_<peer>``, ``val/acc_<peer>``). Checkpoints hold all networks. An objective of your own overrides
    :meth:`distill`.

    Args:
        losses: The terms by name, on logits alone; each network learns with all of them.
        peers: The networks that learn beside the student, by name. Their architectures may differ.

    Raises:
        InputError: When there is no peer, a network appears twice, a term is more than one on logits, names collide, or
            the networks do not answer with the same classes.

    Traps:
        - Networks that start from equal weights, and draw nothing (dropout) of their own, stay equal: they have nothing
          to teach each other.
        - With forward KL the mean of the divergences and the divergence from the others' mean probabilities have the
          same gradient.
        - ``gradient_clip_val`` clips the gradient of all networks as one.

    Code: ``YingZhangDUT/Deep-Mutual-Learning:train_models.py``, which adds the divergences up instead of taking their
        mean (the same for two networks), and updates in turn, each network on a batch of its own. Together, as here:
        ``AberHu/Knowledge-Distillation-Zoo:train_dml.py``.

    Example:
        >>> from torch.optim import SGD
        >>> from lit_distill.losses import KD, CrossEntropy
        >>> module = MutualDistiller(
        ...     student=nn.Linear(8, 3),
        ...     peers={"other": nn.Linear(8, 3)},
        ...     losses={"ce": CrossEntropy(), "kd": KD(temperature=1.0)},
        ...     optimizer=lambda parameters: SGD(parameters, lr=0.1),
        ... )
        >>> student, terms = module.terms((torch.zeros(2, 8), torch.tensor([0, 1])))
        >>> list(terms)
        ['ce', 'kd', 'ce_other', 'kd_other']
    """

    def __init__(self, losses: dict[str, LogitLoss], peers: dict[str, nn.Module], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, term in losses.items():
            _check_term(name, term)
        if not peers or STUDENT in peers:
            raise InputError(f"peers: got {sorted(peers)}; accepted is one or more, none of them called {STUDENT!r}")
        self.peers = nn.ModuleDict(peers)
        self.losses = nn.ModuleDict(losses)
        if len({id(network) for network in self.networks().values()}) <= len(peers):
            raise InputError("peers: a network appears twice among them and the student; each must be one of its own")
        self.sources = {named(term, network): term for network in self.networks() for term in losses}
        if len(self.sources) < len(losses) * (1 + len(peers)):
            raise InputError(f"peers: {sorted(peers)} with losses {sorted(losses)} give two terms one name; rename one")
        self.build()

    def networks(self) -> dict[str, nn.Module]:
        """All networks by name, the student first."""
        return {STUDENT: self.student, **dict(self.peers.items())}

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """Run every network once on zeros, and compare their classes."""
        logits = example_forward(self.student, input_shape, STUDENT)
        for name, peer in self.peers.items():
            answer = example_forward(peer, input_shape, f"peers.{name}")
            if answer.shape != logits.shape:
                raise InputError(
                    f"peers.{name}: answers with shape {tuple(answer.shape)}; accepted is the student's, "
                    f"{tuple(logits.shape)}"
                )
        return logits

    def build_metrics(self, num_classes: int) -> dict[str, Metric]:
        """The student's metrics, and the accuracy of each peer."""
        accuracies = {named("acc", peer): MulticlassAccuracy(num_classes, average="micro") for peer in self.peers}
        return super().build_metrics(num_classes) | accuracies

    def distill(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The unweighted terms of one network that hears one other; override it for an objective of your own.

        Args:
            student: What the network said that learns, any of them.
            teacher: What another one said, without gradients.
            target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        """
        return {name: term(student, teacher, target) for name, term in self.losses.items()}

    def weight_of(self, term: str) -> float:
        """The weight of the term that a network's is one of; 1 for a term that only ``distill`` knows."""
        return self.losses[self.sources[term]].weight if term in self.sources else 1.0  # type: ignore[return-value]

    def terms(self, batch: Batch) -> tuple[Outputs, dict[str, Tensor]]:
        """All networks on one batch, and each one's terms, the mean over the others that it hears."""
        x, target = batch[0], batch[1]
        index = batch[2] if len(batch) > 2 else None
        said = {name: Outputs(network(x), sample_index=index) for name, network in self.networks().items()}
        heard = {name: detached(outputs) for name, outputs in said.items()}
        terms = {}
        for name, own in said.items():
            each = [self.distill(own, other, target) for other_name, other in heard.items() if other_name != name]
            for term in each[0]:
                terms[named(term, name)] = torch.stack([values[term] for values in each]).mean()
        return said[STUDENT], terms

    def on_train_start(self) -> None:
        """Refuse an optimizer that tells terms apart, since all networks share it here.

        Raises:
            InputError: When the optimizer is DOT or of its kind.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, TermSGD):
            raise InputError(
                f"optimizer: {type(optimizer).__name__} tells the terms of one network apart, and MutualDistiller "
                "trains several; accepted is any other optimizer"
            )
        super().on_train_start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of all networks' terms."""
        loss = super().training_step(batch, batch_idx)
        # What callbacks relate to the student's gradient are its own terms, which come first.
        own = len(self.last_terms) // len(self.networks())
        self.last_terms = dict(list(self.last_terms.items())[:own])
        return loss

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Update and log this stage's metrics: the student's, and each peer's accuracy."""
        super().evaluate(batch, stage)
        for name, peer in self.peers.items():
            self.update_metrics(stage, peer(batch[0]), batch[1], (named("acc", name),))


def named(what: str, network: str) -> str:
    """What a term or metric of a network is called: as it is for the student, with the name at its end for a peer."""
    return what if network == STUDENT else f"{what}_{network}"


def _check_term(name: str, term: nn.Module) -> None:
    """Raise unless the term serves every pair of networks alike: it reads no layers and learns nothing itself."""
    if (
        not isinstance(term, LogitLoss)
        or term.layers
        or term.teacher is not None
        or any(True for _ in term.parameters())
    ):
        raise InputError(
            f"losses.{name}: {type(term).__name__} is not one term for every pair of networks; accepted are terms on "
            "logits alone, without layers, parameters or the name of a teacher (CrossEntropy, KD, DKD, ...)"
        )
