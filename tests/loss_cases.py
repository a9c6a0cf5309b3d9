"""Every term on logits with inputs of any size: for measurements of its memory and its speed."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.losses import KD, LogitLoss, divergences, logit
from lit_distill.losses.logit.byot import byot
from lit_distill.losses.logit.dhkd import dhkd
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.logit.lelp import lelp
from lit_distill.losses.logit.meal_v2 import meal_v2
from lit_distill.losses.logit.ofa import ofa
from lit_distill.losses.logit.sdd import sdd
from lit_distill.losses.logit.uskd import uskd
from lit_distill.losses.logit.wkdl import class_costs, wkdl

CELLS = SUBCLASSES = 4


@dataclass(frozen=True)
class Case:
    """A term and what it is called with.

    Attributes:
        term: The exported class that computes it.
        value: The term, called with the inputs by name.
        inputs: From the size of the batch and the number of classes to the inputs by name; those that require a
            gradient are the student's.
        loss: The module that ``value`` calls, if it does not call a function.
    """

    term: type[LogitLoss]
    value: Callable[..., Tensor]
    inputs: Callable[[int, int], dict[str, Any]]
    loss: LogitLoss | None = None


def step(function: Callable[..., Tensor], inputs: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value and gradients."""
    learnt = [x for x in inputs.values() if isinstance(x, Tensor) and x.requires_grad]
    value = function(**inputs)
    return value.detach(), torch.autograd.grad(value, learnt)


def tensors(inputs: dict[str, Any]) -> list[Tensor]:
    """All tensors among the inputs."""
    modules = [p for x in inputs.values() if isinstance(x, nn.Module) for p in x.parameters()]
    return [x for x in inputs.values() if isinstance(x, Tensor)] + modules


def unit(inputs: dict[str, Any]) -> int:
    """Bytes of the largest of the student's logits."""
    return max(x.nbytes for x in inputs.values() if isinstance(x, Tensor) and x.requires_grad)


def logits(batch: int, classes: int, students: tuple[str, ...] = ("student",)) -> dict[str, Any]:
    """Logits of a student and of a teacher, and the labels, which the teacher mostly knows."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (batch,), generator=generator)
    known = 4 * nn.functional.one_hot(target, classes)
    every = {name: 2 * torch.randn(batch, classes, generator=generator) for name in students}
    teacher = 2 * torch.randn(batch, classes, generator=generator) + known
    return {**{name: x.requires_grad_() for name, x in every.items()}, "teacher": teacher, "target": target}


def without(name: str, given: Callable[[int, int], dict[str, Any]] = logits) -> Callable[[int, int], dict[str, Any]]:
    return lambda batch, classes: {key: x for key, x in given(batch, classes).items() if key != name}


def plain(kind: type[LogitLoss]) -> bool:
    """Can it be made without arguments, does it ask for no features, and is it made for any shape?"""
    if not (inspect.isclass(kind) and issubclass(kind, LogitLoss)):
        return False
    required = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    return not [p for p in required if p.kind is not p.VAR_KEYWORD] and not kind().layers


def of_loss(loss: LogitLoss, *features: str) -> Case:
    def value(student: Tensor, teacher: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        return loss(Outputs(student, given), Outputs(teacher), target)

    return Case(type(loss), value, lambda batch, classes: logits(batch, classes, ("student", *features)), loss)


def deit(kind: type[LogitLoss]) -> Case:
    loss = kind()

    def value(class_head: Tensor, token_head: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return loss(Outputs(class_head, {"head": class_head, "head_dist": token_head}), Outputs(teacher), target)

    return Case(kind, value, lambda batch, classes: logits(batch, classes, ("class_head", "token_head")), loss)


def with_costs(batch: int, classes: int) -> dict[str, Any]:
    costs = class_costs(torch.randn(classes, 64, generator=torch.Generator().manual_seed(0)))
    return {**logits(batch, classes), "costs": costs}


def cells(batch: int, classes: int) -> dict[str, Any]:
    given = logits(batch, classes)
    whole = [given[name].detach().unflatten(0, (-1, CELLS)) for name in ("student", "teacher")]
    return {"student": whole[0].requires_grad_(), "teacher": whole[1], "target": given["target"][::CELLS]}


def subclasses(batch: int, classes: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    split, coordinates = torch.randn(2, batch, classes, SUBCLASSES, generator=generator)
    given = logits(batch, classes)
    return {"student": given["student"], "split": split.requires_grad_(), "teacher": given["teacher"]} | {
        "coordinates": coordinates
    }


def discriminated(batch: int, classes: int) -> dict[str, Any]:
    torch.manual_seed(0)
    outputs, loss = Outputs(torch.zeros(2, classes)), logit.MEALV2()
    loss.build(outputs, outputs)
    given = logits(batch, classes)
    return {"student": given["student"], "teacher": given["teacher"], "discriminator": loss.discriminator}


def exits(batch: int, classes: int) -> dict[str, Any]:
    given = logits(batch, classes, ("exit_logits",))
    return {"exit_logits": given["exit_logits"], "deepest": given["teacher"], "target": given["target"]}


def sdd_of_kd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return sdd(student, teacher, target, lambda s, t, _: kd(s, t))


def divergence_terms() -> dict[str, Case]:
    kinds = [kind for kind in vars(divergences).values() if inspect.isclass(kind)]
    kinds = [kind for kind in kinds if issubclass(kind, divergences.Divergence) and kind is not divergences.Divergence]
    return {f"DivergenceKD({kind.__name__})": of_loss(logit.DivergenceKD(kind())) for kind in kinds}


CASES: dict[str, Case] = {
    **{kind.__name__: of_loss(kind()) for kind in vars(logit).values() if plain(kind)},
    **divergence_terms(),
    "BYOT": Case(logit.BYOT, byot, exits),
    "DHKD": Case(logit.DHKD, dhkd, without("target")),
    "DeiTHard": deit(logit.DeiTHard),
    "DeiTSoft": deit(logit.DeiTSoft),
    "Hierarchical": of_loss(logit.Hierarchical(KD(), exits={"early": 1}, depth=2), "early"),
    "LELP": Case(logit.LELP, lelp, subclasses),
    "MEALV2": Case(logit.MEALV2, meal_v2, discriminated),
    "OFA": Case(logit.OFA, ofa, logits),
    "SDD": Case(logit.SDD, sdd_of_kd, cells),
    "USKD": Case(logit.USKD, uskd, without("teacher", lambda b, c: logits(b, c, ("student", "weak")))),
    "WKDL": Case(logit.WKDL, wkdl, with_costs),
}
