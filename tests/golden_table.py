"""Golden values, and the one table of what checks them.

A case is a pair ``<family>/<name>.npz`` and ``.json``, computed by running the authors' code or the paper's formula in
float64. It brings its inputs, its hyperparameters and its tolerance; nothing of that is typed in here. ``GOLDEN_DIR``
names another folder of the same form, with other seeds, sizes and hyperparameters.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_distill.callbacks import Schedule
from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import OrthogonalProjector
from lit_distill.losses import (
    AB,
    DKD,
    ICKD,
    KD,
    OFD,
    PKD,
    RKD,
    SRD,
    SRRL,
    VID,
    DistillLoss,
    LogitLoss,
    ReviewKD,
    Standardised,
)
from lit_distill.losses import divergences as d
from lit_distill.losses.feature.at import at
from lit_distill.losses.feature.catkd import catkd
from lit_distill.losses.feature.cwd import cwd
from lit_distill.losses.feature.fitnet import ConvRegressor, fitnet
from lit_distill.losses.feature.fsp import fsp
from lit_distill.losses.feature.ft import encoder, ft
from lit_distill.losses.feature.mgd import MaskedGenerator, mgd
from lit_distill.losses.feature.nst import nst
from lit_distill.losses.feature.simkd import simkd
from lit_distill.losses.feature.vitkd import TokenGenerator, masked_tokens, vitkd_generate, vitkd_mimic
from lit_distill.losses.feature.vkd import vkd
from lit_distill.losses.feature.wkdf import gaussian_gaps, wkdf
from lit_distill.losses.logit.bkd import bkd
from lit_distill.losses.logit.crld import crld, crld_parts
from lit_distill.losses.logit.deit import deit_hard, deit_soft
from lit_distill.losses.logit.dhkd import aligned_gradients, dhkd
from lit_distill.losses.logit.dist import dist
from lit_distill.losses.logit.dkd import dkd, dkd_rows
from lit_distill.losses.logit.dtkd import dtkd
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.logit.luminet import luminet
from lit_distill.losses.logit.mlld import mlld_levels
from lit_distill.losses.logit.nkd import nkd, nkd_rows
from lit_distill.losses.logit.ofa import ofa
from lit_distill.losses.logit.pld import pld, ranking
from lit_distill.losses.logit.rld import rld
from lit_distill.losses.logit.sdd import sdd
from lit_distill.losses.logit.skd import SKD, skd_direction
from lit_distill.losses.logit.tfkd import tfkd_reg, tfkd_self
from lit_distill.losses.logit.ttm import ttm, wttm
from lit_distill.losses.logit.uskd import uskd
from lit_distill.losses.logit.wkdl import wkdl
from lit_distill.losses.logit.wsld import wsld
from lit_distill.losses.modifiers.ctkd import adversarial_temperature
from lit_distill.losses.modifiers.dts import dynamic_temperature
from lit_distill.losses.modifiers.standardised import standardised
from lit_distill.losses.relational.banks import update
from lit_distill.losses.relational.cc import cc_adjacent, cc_gaussian
from lit_distill.losses.relational.crd import crd_embedding, crd_nce, crd_scores, log_mean_exp
from lit_distill.losses.relational.darkrank import darkrank
from lit_distill.losses.relational.irg import IRG, irg_edge_loss, irg_transformation
from lit_distill.losses.relational.itrd import itrd_correlation, itrd_mutual
from lit_distill.losses.relational.kdsvd import kdsvd_directions, kdsvd_relation
from lit_distill.losses.relational.pkt import pkt
from lit_distill.losses.relational.rkd import rkd_angle, rkd_distance
from lit_distill.losses.relational.semckd import SemCKD
from lit_distill.losses.relational.sp import sp
from lit_distill.losses.relational.tinyclip import tinyclip
from lit_distill.losses.views import same_size
from lit_distill.models.reused_classifier import bottleneck

from .golden_dataset import DATASET

HERE = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("GOLDEN_DIR", HERE))


@dataclass(frozen=True)
class Case:
    """One golden case: what goes in, and what must come out.

    Attributes:
        name: ``family/stem``.
        method: What the case computes; cases of one method may differ in their hyperparameters alone.
        mode: Whose values these are: of the paper's formula, of released code that departs from it, or of both.
        hyperparameters: By the names of the case.
        inputs: Tensors by name, in float64 or int64; those with a golden gradient require one.
        outputs: Golden outputs by name.
        grads: Golden gradients by the name of their input: of the output ``loss``, or of another scalar of the case
            where a group comes first (``group.input``).
        rtol: Relative tolerance.
    """

    name: str
    method: str
    mode: str
    hyperparameters: dict[str, Any] = field(repr=False)
    inputs: dict[str, Tensor] = field(repr=False)
    outputs: dict[str, Tensor] = field(repr=False)
    grads: dict[str, Tensor] = field(repr=False)
    rtol: float = field(repr=False)

    def weights(self) -> dict[str, Tensor]:
        """The learnable parameters among the inputs, by the names of the module they belong to."""
        prefix = "weight."
        return {name.removeprefix(prefix): value for name, value in self.inputs.items() if name.startswith(prefix)}


Adapter = Callable[[Case], dict[str, Tensor]]


def load(name: str, folder: Path = FOLDER) -> Case:
    """Read the case ``family/stem``."""
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        parts: dict[str, dict[str, Tensor]] = {"in": {}, "out": {}, "grad": {}}
        for key, array in arrays.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = torch.from_numpy(array)
    for key in parts["grad"]:
        wanted = key if key in parts["in"] else key.partition(".")[2]
        parts["in"][wanted].requires_grad_()
    return Case(name, about["method"], about["mode"], about["hyperparameters"], *parts.values(), float(about["rtol"]))


def names(folder: Path = FOLDER) -> list[str]:
    """All cases of a folder."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.npz"))


def adapter_of(name: str, folder: Path = FOLDER) -> Adapter | None:
    """What checks a case: the entry of its name, else that of its method.

    Variants of a method usually differ in hyperparameters alone. Where a variant holds the values of released code
    that departs from the formula, which the library does not follow, no entry of the method may stand in for it.
    """
    if name in TABLE:
        return TABLE[name]
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return None if about["mode"] == "code" else TABLE.get(f"{name.partition('/')[0]}/{about['method']}")


def check(case: Case, adapter: Adapter) -> None:
    """Compare values and gradients with the golden ones.

    All that the adapter gives must be golden outputs; ``loss`` and the value of each token may not be left out. The
    gradients of ``loss`` are taken here; those of another scalar the adapter gives itself, as ``grad.group.input``.
    """
    given = adapter(case)
    golden = case.outputs | {f"grad.{name}": value for name, value in case.grads.items()}
    required = {"loss", "per_token"} & case.outputs.keys()
    assert required <= given.keys() <= golden.keys(), f"{case.name}: adapter gives {sorted(given)}"
    inputs = {f"grad.{name}": case.inputs[name] for name in case.grads if name in case.inputs}
    if inputs:
        grads = torch.autograd.grad(given["loss"], list(inputs.values()))
        given = given | dict(zip(inputs, grads, strict=True))
    for name, value in given.items():
        _close(value, golden[name], case, name)


def _close(value: Tensor, golden: Tensor, case: Case, what: str) -> None:
    # entries that cancel to nearly nothing carry the rounding of the large ones, and so does a whole gradient that is 0
    # (of a bias before a batch normalisation)
    atol = 1e-10 * golden.double().abs().max().item()
    if what.startswith("grad."):
        atol = max(atol, 1e-14 * max(grad.abs().max().item() for grad in case.grads.values()))
    torch.testing.assert_close(
        value.detach(),
        golden,
        rtol=case.rtol,
        atol=atol,
        msg=lambda text: f"{case.name}, {what}: {text}",
    )


# ----------------------------------------------------------------------------------------------------------------------
# Sequences: labels are not shifted; the logits at t are scored against the label at t + 1.


def shifted(case: Case, part: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Rows of student and teacher logits, ``(B, T - 1, V)``, and which of them count, ``(B, T - 1)``."""
    student, teacher = case.inputs[f"student_logits{part}"], case.inputs[f"teacher_logits{part}"]
    mask = case.inputs[f"labels{part}"][:, 1:] != -100
    return student[:, :-1], teacher[:, :-1], mask


def rows(divergence: Callable[..., Tensor], *parameters: str) -> Adapter:
    """Check a divergence that takes these hyperparameters, and the temperature."""

    def adapter(case: Case) -> dict[str, Tensor]:
        given = case.hyperparameters
        student, teacher, mask = shifted(case)
        temperature = given.get("temperature", 1.0)
        values = divergence(student, teacher, *(given[name] for name in parameters), temperature=temperature)
        if given.get("t_squared", False):
            values = values * temperature**2
        return {"loss": d.reduce_rows(values, mask), "per_token": values * mask}

    return adapter


def gjsd(case: Case) -> dict[str, Tensor]:
    normalised = case.hyperparameters.get("normalised", False)
    return rows(d.normalised_jsd if normalised else d.jsd, "beta")(case)


def fully_masked(case: Case) -> dict[str, Tensor]:
    student, teacher, mask = shifted(case)
    return {"loss": d.reduce_rows(d.jsd(student, teacher, case.hyperparameters["beta"]), mask)}


def padded_vocab(case: Case) -> dict[str, Tensor]:
    divergence = getattr(d, case.hyperparameters["divergence"])
    student, teacher, mask = shifted(case)
    size = case.hyperparameters["vocab_size"]
    values = divergence(student[..., :size], teacher[..., :size])
    return {"loss": d.reduce_rows(values, mask), "per_token": values * mask}


def global_token_reduction(case: Case) -> dict[str, Tensor]:
    divergence = getattr(d, case.hyperparameters["divergence"])
    parts = {part: shifted(case, f"_{part}") for part in "ab"}
    counts = torch.stack([mask.sum() for _, _, mask in parts.values()])
    losses = {
        f"loss_{part}": d.reduce_rows(divergence(student, teacher), mask, total=counts.sum())
        for part, (student, teacher, mask) in parts.items()
    }
    return {"loss": losses["loss_a"] + losses["loss_b"], **losses, "num_tokens": counts}


# ----------------------------------------------------------------------------------------------------------------------
# Images


def logits(function: Callable[..., Tensor], **names: str) -> Adapter:
    """Check a function of both logits, the target where the case has one, and arguments that it calls otherwise."""

    def adapter(case: Case) -> dict[str, Tensor]:
        inputs = [case.inputs[name] for name in ("logits_s", "logits_t", "target") if name in case.inputs]
        return {"loss": function(*inputs, **{name: case.hyperparameters[key] for name, key in names.items()})}

    return adapter


def logit_skd(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    loss = SKD(temperature=given["T"], tikhonov=given["tikhonov"], direction_weight=given["direction_weight"])
    student, teacher = case.inputs["logits_s"], case.inputs["logits_t"]
    return {
        "loss": loss(Outputs(student), Outputs(teacher), torch.empty(0)),
        "direction": skd_direction(student, teacher, given["tikhonov"]),
    }


def logit_dkd(case: Case) -> dict[str, Tensor]:
    x = case.inputs
    label, rest = dkd_rows(x["logits_s"], x["logits_t"], x["target"], case.hyperparameters["T"])
    loss = logits(dkd, alpha="alpha", beta="beta", temperature="T")(case)
    return {**loss, "tckd": label.mean(), "nckd": rest.mean()}


def logit_nkd(case: Case) -> dict[str, Tensor]:
    x = case.inputs
    label, _ = nkd_rows(x["logits_s"], x["logits_t"], x["target"], case.hyperparameters["T"])
    return {**logits(nkd, gamma="gamma", temperature="T")(case), "target_term": label.mean()}


def logit_dist(case: Case) -> dict[str, Tensor]:
    both = case.inputs["logits_s"], case.inputs["logits_t"]
    tau = case.hyperparameters["tau"]
    parts = {"inter": dist(*both, 1, 0, temperature=tau), "intra": dist(*both, 0, 1, temperature=tau)}
    return {**logits(dist, beta="beta", gamma="gamma", temperature="tau")(case), **parts}


def logit_dtkd(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    return {"loss": dtkd(case.inputs["logits_s"], case.inputs["logits_t"], given["alpha"], given["beta"], given["T"])}


def logit_pld(case: Case) -> dict[str, Tensor]:
    order = ranking(case.inputs["logits_t"], case.inputs["target"])
    return {**logits(pld, temperature="T_teacher")(case), "permutation": order}


def logit_tfkd(case: Case) -> dict[str, Tensor]:
    """The golden loss includes the cross entropy, which is a term of its own here."""
    given, student, target = case.hyperparameters, case.inputs["logits_s"], case.inputs["target"]
    mode = "paper" if case.mode == "paper" else "code"
    if "logits_t" in case.inputs:
        term = tfkd_self(student, case.inputs["logits_t"], given["T"], mode)
    else:
        term = tfkd_reg(student, target, given["a"], given["T"], mode)
    label = torch.nn.functional.cross_entropy(student, target)
    return {"loss": (1 - given["alpha"]) * label + given["alpha"] * given["multiplier"] * term}


def logit_wkdl(case: Case) -> dict[str, Tensor]:
    given, tensors = case.hyperparameters, [case.inputs[name] for name in ("logits_s", "logits_t", "target", "cost")]
    sinkhorn = {
        "temperature": given["T"],
        "regularisation": given["sinkhorn_lambda"],
        "iterations": given["sinkhorn_iter"],
    }
    return {
        "loss": wkdl(*tensors, gamma=given["gamma"], **sinkhorn),
        "target_term": wkdl(*tensors, gamma=0.0, **sinkhorn),
    }


def with_standardised(loss: LogitLoss, case: Case) -> Tensor:
    student, teacher = Outputs(case.inputs["logits_s"]), Outputs(case.inputs["logits_t"])
    return Standardised(loss)(student, teacher, case.inputs.get("target", torch.empty(0)))


def logit_lskd_kd(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    value = given["weight"] * with_standardised(KD(temperature=given["T"]), case)
    return {"loss": value, "zscore_s": standardised(case.inputs["logits_s"])}


def logit_lskd_dkd(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    loss = DKD(alpha=given["alpha"], beta=given["beta"], temperature=given["T"])
    return {"loss": with_standardised(loss, case)}


def logit_ctkd(case: Case) -> dict[str, Tensor]:
    """The curriculum is that of the callback, at the fractions of training that end each epoch."""
    given = case.hyperparameters
    epochs = range(1, given["lambda_loops"] + 3)
    schedule = Schedule(
        "strength",
        start=-given["lambda_max"],
        end=-given["lambda_min"],
        shape="cosine",
        until=given["lambda_loops"] / epochs[-1],
    )
    strengths = torch.tensor([schedule.at(epoch / epochs[-1]) for epoch in epochs], dtype=torch.float64)
    strength = strengths[given["epoch"] - 1]
    temperature = adversarial_temperature(case.weights()["theta"], given["t_start"], given["t_end"], strength)
    return {
        "loss": kd(case.inputs["logits_s"], case.inputs["logits_t"], temperature),
        "temperature": temperature.reshape(1),
        "lambda": -strength,
        "lambda_schedule": -strengths,
    }


def logit_dts_scheduler(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    temperatures = [torch.tensor(given["T_init"], dtype=torch.float64)]
    for gap, epoch in zip(case.inputs["loss_gap"], case.inputs["epoch"].tolist(), strict=True):
        temperatures.append(
            dynamic_temperature(
                temperatures[-1],
                gap,
                progress=epoch / given["epochs"],
                initial=given["T_init"],
                lowest=given["T_min"],
                highest=given["T_max"],
                momentum=given["momentum"],
                curve=given["curve_shape"],
            )
        )
    after = torch.stack(temperatures[1:])
    return {"loss": after.sum(), "temperature": after}


def logit_sdd(term: Callable[..., Tensor], **names: str) -> Adapter:
    """Check a mean over cells of a function of both logits and the target, whose arguments the case calls otherwise."""

    def adapter(case: Case) -> dict[str, Tensor]:
        cells = [case.inputs[f"cell_logits_{network}"].transpose(1, 2) for network in "st"]
        given = {name: case.hyperparameters[key] for name, key in names.items()}
        return {"loss": sdd(*cells, case.inputs["target"], lambda s, t, y: term(s, t, y, **given))}

    return adapter


def nkd_of_all_classes(s: Tensor, t: Tensor, y: Tensor, gamma: float, temperature: float) -> Tensor:
    """What the authors of SDD released as NKD: the label's cross entropy, and one of all classes."""
    entropy = -((t / temperature).softmax(-1) * (t / temperature).log_softmax(-1)).sum(-1).mean()
    return nkd(s, t, y, gamma=0.0) + gamma * (kd(s, t, temperature) + temperature**2 * entropy)


def logit_ofa(case: Case) -> dict[str, Tensor]:
    heads = [case.inputs[name] for name in sorted(case.inputs) if name.startswith("logits_stage")]
    terms = [
        ofa(head, case.inputs["logits_t"], case.inputs["target"], eps, case.hyperparameters["T"], mode=case.mode)
        for head, eps in zip([*heads, case.inputs["logits_s"]], case.hyperparameters["eps"], strict=True)
    ]
    return {"loss": torch.stack(terms).sum(), "loss_final": terms[-1]}


def logit_uskd(case: Case) -> dict[str, Tensor]:
    given, weights = case.hyperparameters, case.weights()
    weak = nn.functional.linear(case.inputs["feature_mid"], weights["fc.weight"], weights["fc.bias"])
    factors = {name: given[name] for name in ("alpha", "beta", "mu")}
    return {"loss": uskd(case.inputs["logits_s"], weak, case.inputs["target"], mode=case.mode, **factors)}


def logit_dhkd(case: Case) -> dict[str, Tensor]:
    return {"loss": dhkd(case.inputs["logits_aux"], case.inputs["logits_t"], case.hyperparameters["T"])}


def logit_dhkd_gradient_alignment(case: Case) -> dict[str, Tensor]:
    (merged,) = aligned_gradients(*([case.inputs[f"grad_{of}"] * case.inputs[f"has_grad_{of}"]] for of in ("ce", "kd")))
    return {"loss": merged.sum(), "merged": merged}


def logit_deit(case: Case) -> dict[str, Tensor]:
    tensors = [case.inputs[name] for name in ("logits_s", "logits_dist", "logits_t", "target")]
    given = case.hyperparameters
    if "tau" not in given:
        return {"loss": deit_hard(*tensors, alpha=given["alpha"])}
    return {"loss": deit_soft(*tensors, alpha=given["alpha"], temperature=given["tau"], mode=case.mode)}


def views(case: Case) -> list[Tensor]:
    return [case.inputs[f"logits_{network}_{view}"] for network in "st" for view in ("weak", "strong")]


def logit_mlld(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    levels = [given["weight"] * level for level in mlld_levels(*views(case), given["T_pool"], mode=case.mode)]
    parts = dict(zip(("loss_kd", "loss_bc", "loss_cc"), levels, strict=True))
    return {"loss": torch.stack(levels).sum()} | {name: parts[name] for name in parts.keys() & case.outputs.keys()}


def logit_crld(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    shared = {"temperature": given["T"], "weak_threshold": given["tau_w"], "strong_threshold": given["tau_s"]}
    weights = {"within_weight": given["wv_weight"], "cross_weight": given["cv_weight"]}
    within, across = crld_parts(*views(case), **shared)
    return {
        "loss": crld(*views(case), **weights, **shared),
        "loss_wv": within * given["wv_weight"],
        "loss_cv": across * given["cv_weight"],
    }


def with_weights(module: nn.Module, case: Case, *args: Tensor) -> Tensor:
    """Run a module with the case's parameters in place of its own."""
    return torch.func.functional_call(module.double(), case.weights(), args)


def feature_fitnet(case: Case) -> dict[str, Tensor]:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    regressor = ConvRegressor(student.shape[1:], teacher.shape[1:])
    return {"loss": fitnet(with_weights(regressor, case, student), teacher)}


def maps(case: Case, network: str) -> list[Tensor]:
    """Maps of the layers of a network, from shallow to deep."""
    return [case.inputs[f"f_{network}{i}"] for i in range(sum(name.startswith("f_s") for name in case.inputs))]


def by_layer(function: Callable[..., Tensor]) -> Adapter:
    """Check the sum over layers of a function of two maps."""
    return lambda case: {
        "loss": torch.stack([function(s, t) for s, t in zip(maps(case, "s"), maps(case, "t"), strict=True)]).sum()
    }


def feature_at(case: Case) -> dict[str, Tensor]:
    mode = "paper" if case.mode == "paper" else "code"
    return by_layer(lambda s, t: at(s, t, p=case.hyperparameters.get("p", 2), mode=mode))(case)


def feature_fsp(case: Case) -> dict[str, Tensor]:
    return {"loss": fsp(maps(case, "s"), maps(case, "t"), mode=case.mode)}


def feature_ft(case: Case) -> dict[str, Tensor]:
    factors = []
    for network, x in (("weight.translator", case.inputs["f_s"]), ("paraphraser", case.inputs["f_t"])):
        own = {n.removeprefix(f"{network}."): w for n, w in case.inputs.items() if n.startswith(f"{network}.")}
        shape = encoder(x.shape[1], own["conv2.weight"].shape[0]).double()
        factors.append(torch.func.functional_call(shape, own, (x,)))
    mode = "code" if case.mode == "code" else "paper"
    known = {"factor_s": factors[0], "factor_t": factors[1]}
    return {"loss": ft(*factors, p=case.hyperparameters["p"], mode=mode)} | {
        name: known[name] for name in known.keys() & case.outputs.keys()
    }


def features(case: Case) -> list[Outputs]:
    """What student and teacher say in a case that holds maps, by the number of the layer."""
    alone = "f_s" in case.inputs
    both = [[case.inputs[f"f_{network}"]] if alone else maps(case, network) for network in "st"]
    return [Outputs(torch.empty(0), {str(i): x for i, x in enumerate(layers)}) for layers in both]


def term_of(loss: DistillLoss, said: list[Outputs], weights: dict[str, Tensor]) -> Tensor:
    """A term that has been built for what was said, with these parameters in place of its own."""
    loss.build(*said)
    assert weights.keys() == dict(loss.named_parameters()).keys()
    return torch.func.functional_call(loss.double(), weights, (*said, torch.empty(0)))


def feature_vid(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    loss = VID(variance=given["init_pred_var"], eps=given["eps"], layers={"0": "0"})
    weights = {f"regressors.0.{'rho' if n == 'log_scale' else n}": value for n, value in case.weights().items()}
    return {"loss": term_of(loss, features(case), weights)}


def feature_ofd(case: Case) -> dict[str, Tensor]:
    said = features(case)
    norms = nn.ModuleDict({i: nn.BatchNorm2d(x.shape[1]).double() for i, x in said[1].features.items()})
    norms.load_state_dict({f"{i}.{of}": case.inputs[f"bn_{of}{i}"] for i in norms for of in ("weight", "bias")}, False)
    loss = OFD(norms=list(norms), layers={i: i for i in norms})
    loss.attach(nn.Identity(), norms)
    renamed = {re.sub(r"^(\d)\.", r"connectors.\1.projector.net.", n): value for n, value in case.weights().items()}
    value = term_of(loss, said, renamed)
    return {"loss": value} | {f"margin{i}": connector.margin for i, connector in enumerate(loss.connectors)}


def feature_ab(case: Case) -> dict[str, Tensor]:
    """The maps of the case come from behind the connectors."""
    said = features(case)
    loss = AB(margin=case.hyperparameters["margin"], layers={i: i for i in said[0].features})
    loss.connectors = nn.ModuleList(nn.Identity() for _ in loss.layers)
    return {"loss": loss(*said, torch.empty(0))}


def feature_reviewkd(case: Case) -> dict[str, Tensor]:
    """The case counts its parameters from the deepest layer, and its maps from the shallowest."""
    said = features(case)
    loss = ReviewKD(middle=case.hyperparameters["mid_channel"], layers={i: i for i in said[0].features})
    parts = {"conv1": "enter", "conv2": "leave", "att_conv": "attention"}
    weights = {}
    for name, value in case.weights().items():
        _, i, part, rest = name.split(".", 3)
        weights[f"fusions.{len(loss.layers) - 1 - int(i)}.{parts[part]}.{rest}"] = value
    return {"loss": term_of(loss, said, weights)}


def feature_srrl(case: Case) -> dict[str, Tensor]:
    said = features(case)
    classifier = nn.Linear(*reversed(case.inputs["teacher_fc_weight"].shape)).double().requires_grad_(False)
    classifier.load_state_dict({name: case.inputs[f"teacher_fc_{name}"] for name in ("weight", "bias")})
    said[1] = said[1]._replace(logits=classifier(said[1].features["0"].mean((2, 3))))
    weights = {n.replace("Connectors", "connector.net"): value for n, value in case.weights().items()}
    values = {}
    for name, weight in (("loss", case.hyperparameters["sr_weight"]), ("feature_term", 0.0)):
        loss = SRRL(regression_weight=weight, layers={"0": "0"})
        loss.attach(nn.Identity(), classifier)
        values[name] = term_of(loss, said, weights)
    return values


def feature_simkd(case: Case) -> dict[str, Tensor]:
    student, teacher = same_size(case.inputs["f_s"], case.inputs["f_t"])
    weights = {n.removeprefix("transfer."): value for n, value in case.weights().items()}
    projector = bottleneck(student.shape[1], teacher.shape[1], case.hyperparameters["factor"]).double()
    projected = torch.func.functional_call(projector, weights, (student,))
    classifier = [case.inputs[f"teacher_fc_{name}"] for name in ("weight", "bias")]
    return {
        "loss": simkd(projected, teacher),
        "logits": nn.functional.linear(projected.mean((2, 3)), *classifier),
    }


def feature_cwd(case: Case) -> dict[str, Tensor]:
    value = cwd(case.inputs["f_s"], case.inputs["f_t"], case.hyperparameters["T"])
    return {"loss": value, "loss_mmrazor": value}


def feature_pkd(case: Case) -> dict[str, Tensor]:
    said = features(case)
    resize = "student" if case.hyperparameters["resize_stu"] else "teacher"
    mode = "paper" if case.mode == "paper" else "code"
    loss = PKD(mode=mode, resize=resize, layers={i: i for i in said[0].features})
    return {"loss": term_of(loss, said, {})}


def feature_mgd(case: Case) -> dict[str, Tensor]:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    generator = MaskedGenerator(student.shape[1], teacher.shape[1])
    generated = with_weights(generator, case, student, case.inputs["mask"])
    return {"loss": case.hyperparameters["alpha"] * mgd(generated, teacher)}


def feature_ickd(scale: str) -> Adapter:
    """Check the scale of one of the two releases."""
    parts = {"embed_s.conv2d": "embeddings.0.net.0", "embed_s.l2norm": "embeddings.0.net.1"}

    def adapter(case: Case) -> dict[str, Tensor]:
        renamed = (n.rpartition(".") for n in case.weights())
        weights = {f"{parts[part]}.{of}": case.weights()[f"{part}.{of}"] for part, _, of in renamed}
        return {"loss": term_of(ICKD(scale=scale, layers={"0": "0"}), features(case), weights)}

    return adapter


def feature_catkd(case: Case) -> dict[str, Tensor]:
    given, both = case.hyperparameters, (case.inputs["f_s"], case.inputs["f_t"])
    return {"loss": given["weight"] * catkd(*both, resolution=given["resolution"], normalise=given["normalize"])}


def feature_wkdf(case: Case) -> dict[str, Tensor]:
    given, both = case.hyperparameters, (case.inputs["f_s"], case.inputs["f_t"])
    means, deviations = gaussian_gaps(*both, grid=given["grid"], eps=given["eps"])
    loss = wkdf(*both, mean_weight=given["mean_cov_ratio"], grid=given["grid"], eps=given["eps"])
    return {"loss": loss, "mean_term": means, "std_term": deviations}


def feature_srd(case: Case) -> dict[str, Tensor]:
    """The golden loss includes the KL of the logits, which is a term of its own here."""
    given, x = case.hyperparameters, case.inputs
    loss = SRD(exponent=given["exponent"], eps=given["bn_eps"], layers={"0": "0"})
    term = term_of(loss, features(case), {n.replace("embed", "projector.net"): w for n, w in case.weights().items()})
    return {"loss": given["feature_weight"] * term + kd(x["logits_s"], x["logits_t"], given["T"])}


def feature_vitkd(case: Case) -> dict[str, Tensor]:
    x, given, weights = case.inputs, case.hyperparameters, case.weights()
    masked = masked_tokens(x["noise"], given["lambda"])
    generator = TokenGenerator(x["high_s"].shape[-1], x["high_t"].shape[-1]).double()
    own = {name: value for name, value in weights.items() if not name.startswith("align2")}
    generated = torch.func.functional_call(generator, own, (x["high_s"], masked))
    mimicked = []
    for i, (s, t) in enumerate(zip(x["low_s"].unbind(1), x["low_t"].unbind(1), strict=True)):
        if f"align2.{i}.weight" in weights:
            s = nn.functional.linear(s, weights[f"align2.{i}.weight"], weights[f"align2.{i}.bias"])
        mimicked.append(vitkd_mimic(s, t))
    generation = vitkd_generate(generated, x["high_t"], masked, given["lambda"])
    return {"loss": given["alpha"] * torch.stack(mimicked).sum() + given["beta"] * generation}


def feature_vkd(case: Case) -> dict[str, Tensor]:
    """The golden loss includes the KL of the distillation token, which is a term of its own here."""
    x, given = case.inputs, case.hyperparameters
    student, teacher = x["tokens_s"].mean(1), x["f_t"].mean((2, 3))
    projector = OrthogonalProjector()
    projector.build(student, teacher)
    path = "net.parametrizations.weight"
    weights = {f"{path}.original": x["weight.raw"], f"{path}.1.base": x["base"]}
    projected, rows_of_identity = (
        torch.func.functional_call(projector, weights, (y,)) for y in (student, torch.eye(student.shape[1]).double())
    )
    term = vkd(projected, teacher)
    kl = kd(x["logits_dist_s"], x["logits_t"], given["T"])
    parts = {"representation_term": term, "kl_term": kl, "projector": rows_of_identity.T}
    return {"loss": given["alpha"] * term + given["gamma"] * kl, **parts}


def relational_cc_gaussian(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    return {"loss": cc_gaussian(case.inputs["f_s"], case.inputs["f_t"], gamma=given["gamma"], order=given["P"])}


def relational_crd(case: Case) -> dict[str, Tensor]:
    x, given, weights = case.inputs, case.hyperparameters, case.weights()
    embedded, losses, after = {}, [], {}
    for a in "st":
        linear = f"embed_{a}.linear"
        embedded[a] = crd_embedding(x[f"f_{a}"], weights[f"{linear}.weight"], weights[f"{linear}.bias"])
    for a, b in ("st", "ts"):
        scores = crd_scores(embedded[a], x[f"memory_{b}"], x["contrast_index"], given["nce_t"])
        fixed = f"Z_{a}" in x
        log_mean = (x[f"Z_{a}"] / given["n_data"]).log().squeeze() if fixed else log_mean_exp(scores)
        losses.append(crd_nce(scores, log_mean, given["n_data"]))
        bank = x[f"memory_{a}"].clone()
        update(bank, x["index"], embedded[a].detach(), given["nce_m"])
        after |= {f"Z_{a}": log_mean.exp() * given["n_data"], f"memory_{a}_after": bank}
    return {"loss": torch.stack(losses).sum(), **after}


def relational_irg_instances(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    weights = {"vertex_weight": given["w_vert"], "edge_weight": given["w_edge"], "transform_weight": given["w_tran"]}
    loss = IRG(**weights, layers={"0": "0", "1": "1", "feature": "feature"})
    said = []
    for a in "st":
        features = {"0": f"map_{a}0", "1": f"map_{a}1", "feature": f"feat_{a}"}
        said.append(Outputs(case.inputs[f"out_{a}"], {path: case.inputs[name] for path, name in features.items()}))
    return {"loss": loss(*said, torch.empty(0))}


def relational_irg_batch(case: Case) -> dict[str, Tensor]:
    x, given = case.inputs, case.hyperparameters
    graph = irg_edge_loss(x["f_s"], x["f_t"]) + nn.functional.mse_loss(x["f_s"], x["f_t"])
    maps = [(x[f"map_{a}0"], x[f"map_{a}1"]) for a in "st"]
    transformation = irg_transformation(*maps, mode="batch")
    return {"loss": given["w_graph"] * graph + given["w_transform"] * transformation}


def relational_kdsvd(columns: Literal["channels", "width"]) -> Adapter:
    """Check KDSVD with the signs that the case has for the teacher's vectors: ours are another choice."""

    def adapter(case: Case) -> dict[str, Tensor]:
        layers, given = [], {}
        for i, (s, t) in enumerate(zip(maps(case, "s"), maps(case, "t"), strict=True)):
            learnt, taught = kdsvd_directions(s, t, case.hyperparameters["k"], columns)
            signs = (taught * case.outputs[f"teacher_v{i}"]).sum(1, keepdim=True).sign()
            layers.append((learnt * signs, taught * signs))
            given[f"teacher_v{i}"] = taught * signs
        terms = [
            (kdsvd_relation(s, s_next) - kdsvd_relation(t, t_next)).square().sum() / len(s)
            for (s, t), (s_next, t_next) in pairwise(layers)
        ]
        return {"loss": torch.stack(terms).sum(), **given}

    return adapter


def relational_semckd(case: Case) -> dict[str, Tensor]:
    learnt, taught, given = maps(case, "s"), maps(case, "t"), case.hyperparameters
    layers = {f"s{i}": f"t{min(i, len(taught) - 1)}" for i in range(len(learnt))}
    size = len(learnt[0])
    loss = SemCKD(size, size // given["factor"], given["soft"], layers=layers)
    every = {"s": learnt, "t": taught}
    said = [Outputs(torch.empty(0), {f"{a}{i}": x for i, x in enumerate(tensors)}) for a, tensors in every.items()]
    loss.build(*said)
    renamed = {}
    for name, value in case.weights().items():
        part, _, rest = name.partition(".")
        if part.startswith("regressor"):
            i, j = map(int, part.removeprefix("regressor"))
            renamed[f"bridges.{i * len(taught) + j}.{rest.removeprefix('regressor.')}"] = value
        else:
            kind, _, i = part.partition("_")
            module = {"query": "queries", "key": "keys"}[kind]
            renamed[f"{module}.{i}.{rest.replace('linear1', '0').replace('linear2', '2')}"] = value
    return {"loss": torch.func.functional_call(loss, renamed, (*said, torch.empty(0)))}


def relational_rkd(case: Case) -> dict[str, Tensor]:
    given = case.hyperparameters
    loss = RKD(distance_weight=given["w_d"], angle_weight=given["w_a"], layers={"embedding": "embedding"})
    student, teacher = (Outputs(torch.empty(0), {"embedding": case.inputs[name]}) for name in ("f_s", "f_t"))
    return {"loss": loss(student, teacher, torch.empty(0))}


def relational_darkrank(case: Case) -> dict[str, Tensor]:
    x, given = case.inputs, case.hyperparameters
    return {"loss": darkrank(x["f_s"], x["f_t"], given["alpha"], given["beta"], given["permute_len"])}


def relational_itrd(case: Case) -> dict[str, Tensor]:
    x, given, weights = case.inputs, case.hyperparameters, case.weights()
    embedded = nn.functional.linear(x["f_s"], weights["embed.linear.weight"], weights["embed.linear.bias"])
    correlation = itrd_correlation(embedded, x["f_t"], given["alpha"])
    mutual = itrd_mutual(embedded if x["f_s"].shape != x["f_t"].shape else x["f_s"], x["f_t"])
    loss = given["lambda_corr"] * correlation + given["lambda_mutual"] * mutual
    return {"loss": loss, "correlation": correlation, "mutual": mutual}


def relational_tinyclip(case: Case) -> dict[str, Tensor]:
    x = case.inputs
    towers = [x[f"{tower}_{a}"] for a in "st" for tower in ("image", "text")]
    return {"loss": tinyclip(*towers, 1 / x["logit_scale_s"], 1 / x["logit_scale_t"])}


def embeddings(function: Callable[[Tensor, Tensor], Tensor]) -> Adapter:
    """Check a function of one embedding a sample."""
    return lambda case: {"loss": function(case.inputs["f_s"], case.inputs["f_t"])}


TABLE: dict[str, Adapter] = {
    **DATASET,
    "feature/ab": feature_ab,
    "feature/at_code": feature_at,
    "feature/at_paper": feature_at,
    "feature/cat_kd": feature_catkd,
    "feature/cat_kd_unnormalized": feature_catkd,
    "feature/cwd": feature_cwd,
    "feature/fitnet": feature_fitnet,
    "feature/fsp": feature_fsp,
    "feature/ft_paper": feature_ft,
    "feature/ft_repdistiller": feature_ft,
    "feature/ickd_cifar": feature_ickd("cifar"),
    "feature/ickd_imagenet": feature_ickd("imagenet"),
    "feature/mgd_cls": feature_mgd,
    "feature/mgd_det": feature_mgd,
    "feature/nst": by_layer(nst),
    "feature/ofd": feature_ofd,
    "feature/pkd": feature_pkd,
    "feature/reviewkd": feature_reviewkd,
    "feature/simkd": feature_simkd,
    "feature/srd": feature_srd,
    "feature/srrl": feature_srrl,
    "feature/vid": feature_vid,
    "feature/vitkd": feature_vitkd,
    "feature/vkd": feature_vkd,
    "feature/wkd_f": feature_wkdf,
    "logit/bkd": logits(bkd),
    "logit/crld": logit_crld,
    "logit/ctkd": logit_ctkd,
    "logit/deit_hard": logit_deit,
    "logit/deit_soft_code": logit_deit,
    "logit/deit_soft_paper": logit_deit,
    "logit/dhkd": logit_dhkd,
    "logit/dhkd_gradient_alignment": logit_dhkd_gradient_alignment,
    "logit/dist": logit_dist,
    "logit/dkd": logit_dkd,
    "logit/dtkd": logit_dtkd,
    "logit/dts_scheduler": logit_dts_scheduler,
    "logit/kd": logits(kd, temperature="T"),
    "logit/lskd_dkd": logit_lskd_dkd,
    "logit/lskd_kd": logit_lskd_kd,
    "logit/luminet": logits(luminet, alpha="alpha", temperature="T"),
    "logit/mlld_code": logit_mlld,
    "logit/mlld_paper": logit_mlld,
    "logit/nkd": logit_nkd,
    "logit/ofa_code": logit_ofa,
    "logit/ofa_paper": logit_ofa,
    "logit/pld": logit_pld,
    "logit/rld": logits(rld, alpha="alpha", beta="beta", temperature="T", confidence_temperature="alpha_T"),
    "logit/sdd_dkd": logit_sdd(dkd, alpha="alpha", beta="beta", temperature="T"),
    "logit/sdd_kd": logit_sdd(lambda s, t, y, temperature: kd(s, t, temperature), temperature="T"),
    "logit/sdd_nkd": logit_sdd(nkd, gamma="gamma", temperature="T"),
    "logit/sdd_nkd_code": logit_sdd(nkd_of_all_classes, gamma="gamma", temperature="T"),
    "logit/skd": logit_skd,
    "logit/tfkd_reg_code": logit_tfkd,
    "logit/tfkd_reg_paper": logit_tfkd,
    "logit/tfkd_self_code": logit_tfkd,
    "logit/ttm": logits(ttm, gamma="gamma"),
    "logit/uskd_code": logit_uskd,
    "logit/uskd_paper": logit_uskd,
    "logit/wkd_l": logit_wkdl,
    "logit/wsld": logits(wsld, alpha="alpha", temperature="T"),
    "logit/wttm": logits(wttm, gamma="gamma"),
    "relational/cc_gaussian": relational_cc_gaussian,
    "relational/cc_repdistiller": embeddings(cc_adjacent),
    "relational/crd_first_step": relational_crd,
    "relational/crd_later_step": relational_crd,
    "relational/darkrank_hard": relational_darkrank,
    "relational/irg_aberhu": relational_irg_instances,
    "relational/irg_semckd": relational_irg_batch,
    "relational/itrd": relational_itrd,
    "relational/kdsvd_mdistiller": relational_kdsvd("width"),
    "relational/kdsvd_repdistiller": relational_kdsvd("channels"),
    "relational/pkt": lambda case: embeddings(lambda s, t: pkt(s, t, case.hyperparameters["eps"]))(case),
    "relational/rkd": relational_rkd,
    "relational/rkd_angle": embeddings(rkd_angle),
    "relational/rkd_distance": embeddings(rkd_distance),
    "relational/semckd": relational_semckd,
    "relational/sp": embeddings(sp),
    "relational/tinyclip_affinity": relational_tinyclip,
    "sequence/ab_divergence": rows(d.alpha_beta, "alpha", "beta"),
    "sequence/akl": rows(d.adaptive_kl, "mu"),
    "sequence/forward_kl": rows(d.forward_kl),
    "sequence/fully_masked": fully_masked,
    "sequence/gjsd": gjsd,
    "sequence/global_token_reduction": global_token_reduction,
    "sequence/mixed_kl": rows(d.mixed_kl, "reverse_weight"),
    "sequence/padded_vocab": padded_vocab,
    "sequence/reverse_kl": rows(d.reverse_kl),
    "sequence/skew_forward_kl": rows(d.skew_forward_kl, "alpha"),
    "sequence/skew_reverse_kl": rows(d.skew_reverse_kl, "alpha"),
    "sequence/tvd": rows(d.tvd),
}
