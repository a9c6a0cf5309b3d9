"""What checks the golden values of dataset distillation; see golden_table."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_distill.dataset.augment import Drawn, SiameseAugmentation, brighter, contrasted, saturated
from lit_distill.dataset.coreset import herding, k_center
from lit_distill.dataset.crops import Box
from lit_distill.dataset.experts import Batch
from lit_distill.dataset.flat_experts import FlatExperts
from lit_distill.dataset.networks.committee import Votes, voting_weights
from lit_distill.dataset.networks.experts import Trajectory, latest_start
from lit_distill.dataset.objectives.aligned import DATM, agreed_logits
from lit_distill.dataset.objectives.distribution import DistributionMatching
from lit_distill.dataset.objectives.feature import FeatureMatching
from lit_distill.dataset.objectives.gradient import GradientMatching, gradient_distance
from lit_distill.dataset.objectives.inversion import SRe2L, agreement, total_variation
from lit_distill.dataset.objectives.kernel import kernel_ridge, label_margin
from lit_distill.dataset.objectives.smooth import AST, balance, perturbed
from lit_distill.dataset.objectives.trajectory import MTT, TESLA
from lit_distill.dataset.objectives.unrolled import DD, descent, ordered
from lit_distill.dataset.recipe import recipe_of
from lit_distill.dataset.smooth_experts import SmoothExperts, gradient_penalty
from lit_distill.dataset.soft_views import pasted
from lit_distill.dataset.step import Labelled, Step
from lit_distill.dataset.synthetic.multi_formation import formed, formed_within
from lit_distill.dataset.synthetic.patches import best_crops, mosaics, padded
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.dataset.targets import regression_error, soft_divergence
from lit_distill.dataset.training import train
from lit_distill.dataset.unroll import Route, Stateless, unroll
from lit_distill.models import CondensationConvNet


class Golden(nn.Module):
    """The network of a case, whose parameters are the inputs ``weight.*`` themselves, with their gradients.

    Attributes:
        weights: The inputs by the names of the network's own parameters.
    """

    def __init__(self, case: Any) -> None:
        super().__init__()
        given = case.hyperparameters
        shape = (given["channel"], *given["im_size"])
        self.network = CondensationConvNet(shape, given["num_classes"], given["net_width"], given["net_depth"]).double()
        weights = [value for name, value in case.inputs.items() if name.startswith("weight.")]
        self.weights = dict(zip(self.network.state_dict(), weights, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.network, self.weights, (x,))


def convnet_forward(case: Any) -> dict[str, Tensor]:
    network = Golden(case)
    logits = network(case.inputs["x"])
    loss = nn.functional.cross_entropy(logits, case.inputs["y"])
    network.network.load_state_dict(network.weights)
    return {"loss": loss, "logits": logits, "embed": network.network.features(case.inputs["x"])}


# ----------------------------------------------------------------------------------------------------------------------
# Siamese augmentation: of each image by itself, and of all images as of the first.


def augmented(case: Any, operation: Callable[[Tensor, Tensor], Tensor], numbers: Tensor) -> dict[str, Tensor]:
    x = case.inputs["x"]
    y = operation(x[:, None], numbers)[:, 0]
    return {"loss": (y * case.inputs["cotangent"]).sum(), "y": y, "y_siamese": operation(x[None], numbers[:1])[0]}


def dsa_color(function: Callable[[Tensor, Tensor, float], Tensor], name: str) -> Callable[[Any], dict[str, Tensor]]:
    def adapter(case: Any) -> dict[str, Tensor]:
        return augmented(case, lambda x, u: function(x, u, case.hyperparameters[name]), case.inputs["u"])

    return adapter


def dsa(case: Any) -> dict[str, Tensor]:
    """Operations by the uniform numbers that they are drawn with."""
    given = case.hyperparameters
    name = case.method.split("_")[1]
    shares = {"crop": given["ratio_crop_pad"], "cutout": given["ratio_cutout"], "flip": given["prob_flip"]}
    augment = SiameseAugmentation(name, **shares, scale=given["ratio_scale"], rotate=given["ratio_rotate"])
    inputs, side = case.inputs, case.inputs["x"].shape[-1]
    numbers = torch.zeros(len(inputs["x"]), 3, dtype=torch.float64)
    if name == "crop":
        most = int(side * augment.crop + 0.5)
        first, second = ((inputs[f"shift_{way}"] + most + 0.5) / (2 * most + 1) for way in "hw")
    elif name == "cutout":
        places = side + 1 - int(side * augment.cutout + 0.5) % 2
        first, second = ((inputs[f"center_{way}"] + 0.5) / places for way in "hw")
    elif name == "scale":
        first, second = inputs["ux"], inputs["uy"]
    else:
        first, second = inputs["u"], inputs["u"]
    numbers[:, 0], numbers[:, 1] = first, second
    return augmented(case, lambda x, u: augment(x, Drawn(torch.zeros(len(u), dtype=torch.long), u)), numbers)


def coreset(choose: Callable[[Tensor, int], Tensor]) -> Callable[[Any], dict[str, Tensor]]:
    """Check what is chosen of each class; the golden loss is the sum of all places."""

    def adapter(case: Any) -> dict[str, Tensor]:
        labels = case.inputs["labels"]
        indices = []
        for c in range(case.hyperparameters["num_classes"]):
            members = (labels == c).nonzero().flatten()
            indices.append(members[choose(case.inputs["features"][members], case.hyperparameters["ipc"])])
        chosen = torch.stack(indices)
        return {"loss": chosen.sum().double(), "indices": chosen}

    return adapter


# ----------------------------------------------------------------------------------------------------------------------
# Kernel and decoupled methods.


def dataset_frepo(case: Any) -> dict[str, Tensor]:
    x = case.inputs
    predicted = kernel_ridge(x["feat_target"], x["feat_proto"], x["y_proto"], case.hyperparameters["reg"])
    error, margin = regression_error(predicted, x["y_target"]).mean(), label_margin(x["y_proto"]).mean()
    return {"loss": error - margin, "pred": predicted, "kernel_loss": error, "label_loss": -margin}


def inverted(case: Any, prefix: str) -> nn.Module:
    """The network of a case, two blocks and a layer."""
    state = {name.removeprefix(prefix): x for name, x in case.inputs.items() if name.startswith(prefix)}
    layers: list[nn.Module] = []
    for i in (0, 4):
        width, channels = state[f"{i}.weight"].shape[:2]
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2)]
    classes, features = state["9.weight"].shape
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes)).double().eval()
    network.load_state_dict(state, strict=False)
    return network


def inversion(given: dict[str, Any]) -> SRe2L:
    weights = given["r_bn"], given["first_bn_multiplier"]
    return SRe2L(*weights, tv_weight=given.get("tv_l2", 0.0), l2_weight=given.get("l2_scale", 0.0))


def dataset_sre2l(case: Any) -> dict[str, Tensor]:
    network, method = inverted(case, "weight."), inversion(case.hyperparameters)
    images, labels = case.inputs["images"][None], case.inputs["labels"][None]
    ce, gaps = agreement(network, images, labels, torch.ones(1))
    return {
        "loss": method.loss(Votes((network,), torch.ones(1, 1)), images, labels),
        "loss_ce": ce[0],
        "loss_bn": gaps.sum() + (method.first_weight - 1) * gaps[0, 0],
        "r_feature": gaps[:, 0],
        "loss_tv": total_variation(images)[0],
    }


def dataset_cv_dd(case: Any) -> dict[str, Tensor]:
    weights = voting_weights(case.inputs["prior"], case.hyperparameters["weight_temperature"])
    networks = tuple(inverted(case, f"net{k}.") for k in range(len(weights)))
    images, labels = case.inputs["images"][None], case.inputs["labels"][None]
    terms = [agreement(network, images, labels, torch.ones(1)) for network in networks]
    return {
        "loss": inversion(case.hyperparameters).loss(Votes(networks, weights[None]), images, labels),
        "weights": weights,
        "ce": torch.cat([term.cross_entropy for term in terms]),
    }


def dataset_fkd(case: Any) -> dict[str, Tensor]:
    x = case.inputs
    top, left, bottom, right = x["bbox"].tolist()
    boxes = [Box(top, left, bottom - top, right - left)] * len(x["images"])
    return {
        "loss": soft_divergence(x["student_logits"], x["teacher_logits"], case.hyperparameters["temperature"]),
        "images_cutmix": pasted(x["images"], x["images"][x["mix_index"]], boxes),
    }


def dataset_rded(case: Any) -> dict[str, Tensor]:
    given, x = case.hyperparameters, case.inputs
    size, factor = (given["input_size"],) * 2, given["factor"]
    logits = nn.functional.linear(padded(x["crops"].flatten(0, 1), size).flatten(1), x["weight"], x["bias"])
    labels = x["labels"].repeat_interleave(given["num_crop"])
    scores = nn.functional.cross_entropy(logits, labels, reduction="none").unflatten(0, x["crops"].shape[:2])
    chosen, order = best_crops(x["crops"], scores, given["ipc"] * factor**2)
    return {
        "loss": scores.min(1).values[order].sum(),
        "scores": scores,
        "best_crop": scores.argmin(1),
        "order": order,
        "mosaic": mosaics(chosen, factor, size),
    }


def eval_recipe(case: Any) -> dict[str, Tensor]:
    given, losses = case.hyperparameters, []
    network = Golden(case)
    network.network.load_state_dict(network.weights)
    names = dict(zip(network.weights, case.weights(), strict=True))
    recipe = replace(recipe_of("dc"), epochs=given["epochs"], lr=given["lr"], batch_size=given["batch_train"])
    images, labels = case.inputs["images"], case.inputs["labels"]
    trained = train(
        network.network, images, labels, recipe, torch.Generator(), given["num_classes"], watch=losses.append
    )
    logits = trained(case.inputs["test_images"]).detach()
    right = (logits.argmax(-1) == case.inputs["test_labels"]).double().mean()
    weights = {f"weight.{names[name]}": value for name, value in trained.state_dict().items()}
    of_training = {"loss": losses[-1], "train_losses": torch.stack(losses)}
    return of_training | {"test_accuracy": right, "test_logits": logits} | weights


# ----------------------------------------------------------------------------------------------------------------------
# Unrolled training and trajectories of experts.


def matched(case: Any) -> tuple[Stateless, Trajectory, tuple[Tensor, ...]]:
    """Network, trajectory, and images, labels, step size and batches of a case."""
    given, x = case.hyperparameters, case.inputs
    shape = (given["channel"], *given["im_size"])
    network = Stateless(CondensationConvNet(shape, given["num_classes"], given["net_width"], given["net_depth"]))
    if "start" in x:
        weights = torch.cat([x["start"][None], x["middle"], x["target"][None]])
    else:
        ends = [[value.flatten() for name, value in x.items() if name.startswith(end)] for end in ("start.", "target.")]
        weights = torch.stack([torch.cat(parts) for parts in ends])
    last = given.get("max_start_epoch", 1)
    trajectory = Trajectory(network, weights, given.get("start_epoch", 0), last, number=0, share=1.0)
    batches = [row[row >= 0] for row in x["step_indices"]]
    return network, trajectory, (x["images"], x["labels"], x["lr"].reshape(1), batches)


def learned(method: MTT, size: Tensor) -> MTT:
    """A method whose step size is the golden input itself, with its gradient."""
    del method.rate
    method.rate = size
    return method


def trajectory_case(method: MTT, route: Route, soft: bool = False) -> Callable[[Any], dict[str, Tensor]]:
    def adapter(case: Any) -> dict[str, Tensor]:
        network, trajectory, (images, labels, size, batches) = matched(case)
        learned(method, size).route = route
        if soft:
            labels = DATM.targets(method, Labelled(images, labels), trajectory)
        loss = method.distance(trajectory, images, labels, batches, descent(network))
        made = {"loss": loss}
        if "final_params" in case.outputs:
            made["final_params"] = unroll(descent(network), trajectory.start, images, labels, size, batches)
        if "grad_images_exact" in case.outputs:
            exact = learned(MTT(), size).distance(trajectory, images, labels, batches, descent(network))
            wanted = {name: case.inputs[name] for name in ("images", "labels", "lr") if case.inputs[name].requires_grad}
            grads = torch.autograd.grad(exact, list(wanted.values()), retain_graph=True)
            made |= {f"grad_{name}_exact": grad for name, grad in zip(wanted, grads, strict=True)}
        if "teacher_labels" in case.outputs:
            synthetic = Labelled(images[None], labels[None])
            made["teacher_labels"] = TESLA(soft_labels=True).targets(synthetic, trajectory)[0]
        return made

    return adapter


def ast_student(case: Any) -> dict[str, Tensor]:
    _, trajectory, (images, labels, size, batches) = matched(case)
    given = case.hyperparameters
    assert given["agg_middle_loss"]
    method = AST(len(batches), momentum=given["momentum"], perturb=0.0, balanced=given["balance_loss"])
    step = Step(0, 0, labels, Labelled(images, labels), Pixels())
    loss = method.loss(step, trajectory)
    return {
        "loss": learned(method, size).distance(trajectory, images, labels, batches, loss),
        "final_params": unroll(loss, trajectory.start, images, labels, size, batches, method.momentum),
        "balance_factor": torch.tensor(balance(trajectory.epoch, trajectory.last_epoch), dtype=torch.float64),
    }


def ast_weight_perturb(case: Any) -> dict[str, Tensor]:
    w = perturbed(case.inputs["w"], case.inputs["noise"], case.hyperparameters["alpha"])
    return {"w": w, "loss": w.sum()}


def ast_expert_loss(case: Any) -> dict[str, Tensor]:
    golden, x = Golden(case), case.inputs
    network, given = Stateless(golden.network), case.hyperparameters
    weights = torch.cat([w.flatten() for w in golden.weights.values()])
    method = SmoothExperts(penalty=given["gp_weight"])
    assert [method.factor(e) for e in range(len(given["loss_decay_schedule"]))] == given["loss_decay_schedule"]
    epoch = given["loss_decay_schedule"].index(given["loss_decay"])
    batch = Batch(x["x"], x["x_aug"], x["y"])
    per_image = SmoothExperts(penalty=given["gp_weight"], mode="paper").loss(network, weights, batch, epoch)
    images = x["x"].clone().requires_grad_()
    return {
        "loss": method.loss(network, weights, batch, epoch),
        "ce": nn.functional.cross_entropy(network(weights, x["x_aug"]), x["y"]),
        "gradient_penalty": gradient_penalty(network(weights, images), images),
        "loss_per_sample_norm": per_image,
    }


def ftd_gsam_step(case: Any) -> dict[str, Tensor]:
    """Two steps; the gradient of the case is what the first one follows.

    The case's weights after one step share memory with those after two, and are the latter: the first step is checked
    by its direction and the loss after it.
    """
    golden, x = Golden(case), case.inputs
    network, given = Stateless(golden.network), case.hyperparameters
    method = FlatExperts(rho=given["rho"], alpha=given["alpha"], adaptive=given["adaptive"])
    weights = torch.cat([w.detach().flatten() for w in golden.weights.values()])
    made: dict[str, Tensor] = {}
    names = [name.removeprefix("weight.") for name in x if name.startswith("weight.")]
    for i in (1, 2):
        batch = Batch(x[f"x{i}"], x[f"x{i}"], x[f"y{i}"])
        direction, made[f"loss_step{i}"] = method.gradient(network, weights, batch, 0)
        if i == 1:
            parts = network.parts(direction).values()
            followed = zip(golden.weights.values(), parts, strict=True)
            made["loss"] = made["loss_step1"] + sum(((w - w.detach()) * part).sum() for w, part in followed)
        weights = weights - given["lr"] * direction
    after = zip(names, network.parts(weights).values(), strict=True)
    return made | {f"weight_after2.{name}": part for name, part in after}


def dataset_dd2018(case: Any) -> dict[str, Tensor]:
    given, x = case.hyperparameters, case.inputs
    steps, classes, *shape = x["data"].shape
    channels, width = shape[0], x["weight.conv.weight"].shape[0]
    network = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(108, classes))
    network.double()
    network.load_state_dict(dict(zip(network.state_dict(), case.weights().values(), strict=True)))
    method = DD(given["distill_epochs"], given["images_per_class_per_step"])
    method.raw = x["raw_lrs"].flatten()
    synthetic = Pixels(images_per_class=steps)
    synthetic.num_classes, synthetic.images = classes, x["data"].transpose(0, 1)
    assert torch.equal(x["labels"], torch.arange(classes))
    real = Labelled(x["real"][None], x["real_labels"][None])
    stateless, sizes = Stateless(network), nn.functional.softplus(method.raw)
    images, labels = ordered(synthetic.images), ordered(synthetic.whole().targets)
    batches = list(torch.arange(len(images)).split(classes)) * given["distill_epochs"]
    loss = method(Step(0, 0, x["labels"], real, synthetic), network) * classes  # of which each has seven images here
    return {
        "loss": loss,
        "lrs": sizes,
        "final_params": unroll(descent(stateless), stateless.flat(), images, labels, sizes, batches),
    }


def datm_window(case: Any) -> dict[str, Tensor]:
    x = {name: value.tolist() for name, value in case.inputs.items()}
    bounds = []
    for first, last, growth, grows in zip(
        x["current_max"], x["max_start"], x["expansion_end"], x["sequential"], strict=True
    ):
        bounds.append([latest_start(i, last, first if grows else last, growth) for i in x["iterations"]])
    return {"upper_bound": torch.tensor(bounds), "loss": torch.tensor(bounds).sum().double()}


def datm_label_init(case: Any) -> dict[str, Tensor]:
    logits = agreed_logits(case.inputs["expert_logits"], case.inputs["labels"])
    return {"label_logits": logits, "loss": logits.sum()}


# ----------------------------------------------------------------------------------------------------------------------
# Matching of gradients, features and their means.

IDC = {"cos": "rows", "l1": "absolute", "l1_mean": "row_means", "mse": "squares"}


def matching(objective: Any, case: Any) -> Tensor:
    """An objective on the images of a case, of one class or of all."""
    x = case.inputs
    one = "label" in x
    real, synthetic = (x["real"][None], x["syn"][None]) if one else (x["real"], x["syn"].unflatten(0, (-1, 1)))
    classes = x["label"][None] if one else torch.arange(len(real))
    given = case.hyperparameters | {"channel": synthetic.shape[-3], "im_size": synthetic.shape[-2:]}
    golden = Golden(replace(case, hyperparameters=given))
    golden.network.load_state_dict(golden.weights)
    made = Given(synthetic, classes)
    step = Step(0, 0, classes, Labelled(real, classes[:, None].expand(real.shape[:2])), made)
    return objective(step, golden.network.requires_grad_(False))


class Given(Pixels):
    """Images that are given, of these classes."""

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        super().__init__(images.shape[1])
        self.given = Labelled(images, classes[:, None].expand(images.shape[:2]))

    def decode(self, classes: Tensor) -> Labelled:
        return self.given


def dm_loss(case: Any) -> dict[str, Tensor]:
    return {"loss": matching(DistributionMatching(), case)}


def dc_match(distance: Any, every: bool) -> Callable[[Any], dict[str, Tensor]]:
    """Check a distance of gradients, of which those of one dimension count if ``every`` one does."""

    def adapter(case: Any) -> dict[str, Tensor]:
        sides: dict[str, list[Tensor]] = {"g_syn": [], "g_real": []}
        unused = torch.zeros((), dtype=torch.float64)
        for name, value in case.inputs.items():
            if every or value.ndim > 1:
                sides[name.split(".")[0]].append(value[None])
            else:
                unused = unused + 0 * value.sum()
        return {"loss": gradient_distance(*sides.values(), distance) + unused}

    return adapter


def dc_step(case: Any) -> dict[str, Tensor]:
    return {"loss": matching(GradientMatching(), case)}


def idc_match(case: Any) -> dict[str, Tensor]:
    distance = IDC[case.hyperparameters["metric"]]
    if case.hyperparameters["match"] == "feat":
        return {"loss": matching(FeatureMatching(distance=distance), case)}
    return {"loss": matching(GradientMatching(distance, weights="convolutions"), case)}


def idc_decode(case: Any) -> dict[str, Tensor]:
    given, images = case.hyperparameters, case.inputs["images"][None]
    factor, fill = given["factor"], torch.full((images.shape[2], 1, 1), 0.5, dtype=torch.float64)
    if given["decode_type"] == "bound":
        decoded = formed_within(images, factor, given["bound"], fill)[0]
    else:
        factors = range(1, factor + 1) if given["decode_type"] == "multi" else [factor]
        decoded = torch.cat([formed(images, f, fill)[0] for f in factors])
    return {"loss": (decoded * case.inputs["cotangent"]).sum(), "images": decoded}


DATASET = {
    "dataset/ast_expert_loss": ast_expert_loss,
    "dataset/ast_student": ast_student,
    "dataset/ast_weight_perturb": ast_weight_perturb,
    "dataset/convnet_forward": convnet_forward,
    "dataset/convnet_forward_28": convnet_forward,
    "dataset/cv_dd": dataset_cv_dd,
    "dataset/datm": trajectory_case(DATM(threshold=torch.inf), "recompute", soft=True),
    "dataset/datm_label_init": datm_label_init,
    "dataset/datm_tesla": trajectory_case(DATM(threshold=torch.inf), "tesla", soft=True),
    "dataset/datm_window": datm_window,
    "dataset/dc_match_cos": dc_match("cosine", every=True),
    "dataset/dc_match_mse": dc_match("squares", every=True),
    "dataset/dc_match_ours": dc_match("rows", every=False),
    "dataset/dc_step": dc_step,
    "dataset/dd2018": dataset_dd2018,
    "dataset/dm_loss": dm_loss,
    "dataset/dsa_brightness": dsa_color(brighter, "brightness"),
    "dataset/dsa_contrast": dsa_color(contrasted, "contrast"),
    "dataset/dsa_crop": dsa,
    "dataset/dsa_cutout": dsa,
    "dataset/dsa_flip": dsa,
    "dataset/dsa_rotate_align_corners": dsa,
    "dataset/dsa_rotate_no_align": dsa,
    "dataset/dsa_saturation": dsa_color(saturated, "saturation"),
    "dataset/dsa_scale_align_corners": dsa,
    "dataset/dsa_scale_no_align": dsa,
    "dataset/eval_recipe_dc": eval_recipe,
    "dataset/fkd_cutmix_kl": dataset_fkd,
    "dataset/frepo": dataset_frepo,
    "dataset/ftd_gsam_step": ftd_gsam_step,
    "dataset/ftd_gsam_step_nonadaptive": ftd_gsam_step,
    "dataset/herding": coreset(herding),
    "dataset/idc_decode_bound_f2": idc_decode,
    "dataset/idc_decode_multi_f2": idc_decode,
    "dataset/idc_decode_single_f2": idc_decode,
    "dataset/idc_decode_single_f3": idc_decode,
    "dataset/idc_match_feat_l1": idc_match,
    "dataset/idc_match_feat_mse": idc_match,
    "dataset/idc_match_grad_cos": idc_match,
    "dataset/idc_match_grad_l1": idc_match,
    "dataset/idc_match_grad_l1_mean": idc_match,
    "dataset/idc_match_grad_mse": idc_match,
    "dataset/k_center": coreset(k_center),
    "dataset/mtt": trajectory_case(MTT(), "recompute"),
    "dataset/rded": dataset_rded,
    "dataset/sre2l": dataset_sre2l,
    "dataset/tesla": trajectory_case(TESLA(), "tesla"),
    "dataset/tesla_one_step": trajectory_case(TESLA(), "tesla"),
    "dataset/tesla_soft_label": trajectory_case(TESLA(), "tesla"),
}
