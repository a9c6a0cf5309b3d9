"""How a defensively distilled network stands up to FGSM and to Carlini and Wagner's attack, beside a plain one.

    python benchmarks/robustness/run.py

trains the networks of two presets on the digits with several seeds, as far as runs/robustness lacks them, attacks them
on the test images with foolbox, writes results.md and robustness.png here, and adds the summary to benchmarks/LOG.md.
Takes under two minutes on one core.

Attacks see pixels in [0, 1]: normalisation is a part of the network. FGSM follows the gradient of the cross entropy; a
network whose softmax is 0 or 1 in float32 has none. So it is repeated with the logits divided by the temperature of
training, which leaves every answer as it is: what this finds and FGSM alone does not was hidden, not defended.
"""

import argparse
import statistics
import sys
import warnings
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from lit_distill.cli.trainer import cli, quiet
from lit_distill.data import Digits
from lit_distill.models import MLP, restored
from lit_distill.presets import find

with warnings.catch_warnings():
    # foolbox 3.3 imports a name that scipy has moved
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import log  # noqa: E402

PLAIN, DISTILLED = "mlp_digits", "defensive_digits"
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
TEMPERATURE = yaml.safe_load(find(DISTILLED).read_text())["model"]["init_args"]["losses"]["kd"]["init_args"][
    "temperature"
]


class Divided(nn.Module):
    """A network with all its logits divided by one number."""

    def __init__(self, network: nn.Module, by: float) -> None:
        super().__init__()
        self.network = network
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) / self.by


def network(preset: str, seed: int) -> nn.Module:
    """What the preset trains with this seed."""
    file = Path("runs", "robustness", f"{preset}_{seed}.safetensors")
    if not file.exists():
        cli(
            ["fit", "--config", str(find(preset)), f"--seed_everything={seed}", f"--student_file.path={file}",
             "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--images.count=0"]
        )  # fmt: skip
    return restored(MLP(input_shape=Digits.input_shape, hidden=(128,)), str(file)).eval()


def attackable(net: nn.Module, divided_by: float = 1.0) -> foolbox.PyTorchModel:
    normalised = {"mean": list(Digits.mean), "std": list(Digits.std), "axis": -3}
    return foolbox.PyTorchModel(Divided(net, divided_by).eval(), bounds=(0, 1), preprocessing=normalised, device="cpu")


def fgsm(net: nn.Module, x: Tensor, y: Tensor, divided_by: float = 1.0) -> list[float]:
    """Share of images that are still classified right, for each size of the step."""
    _, _, fooled = foolbox.attacks.FGSM()(attackable(net, divided_by), x, y, epsilons=EPSILONS)
    return (~fooled).double().mean(1).tolist()


def distances(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Distance of each image to the nearest wrong answer that the attack found: 0 if it is wrong already, or inf."""
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=200, stepsize=0.01)
    _, found, fooled = attack(attackable(net), x, y, epsilons=None)
    return torch.where(fooled, (found - x).flatten(1).norm(dim=1), torch.inf)


def without_gradient(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images at which the cross entropy has no gradient at all."""
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(attackable(net)(x), y, reduction="sum").backward()
    return (x.grad.flatten(1).abs().amax(1) == 0).double().mean().item()


def measured(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, list[float] | float | Tensor]:
    return {
        "fgsm": fgsm(net, x, y),
        "divided": fgsm(net, x, y, TEMPERATURE),
        "distance": distances(net, x, y),
        "without": without_gradient(net, x, y),
    }


def mean_std(values: list[float], digits: int = 1, factor: float = 100) -> str:
    values = [factor * value for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(found: dict[str, list[dict]]) -> list[str]:
    columns = [(name, key) for key in ("fgsm", "divided") for name in found]
    names = {"fgsm": "", "divided": f", logits / {TEMPERATURE:g}"}
    lines = ["Right answers after FGSM, in per cent, by the step that each pixel takes (black is 0, white is 1):", ""]
    lines += [f"| step | {' | '.join(f'`{name}`{names[key]}' for name, key in columns)} |", "|---" * 5 + "|"]
    for i, epsilon in enumerate(EPSILONS):
        cells = [mean_std([f[key][i] for f in found[name]]) for name, key in columns]
        lines.append(f"| {epsilon or 'none'} | {' | '.join(cells)} |")
    lines += ["", "| | images without any gradient, % | fooled by Carlini and Wagner, % | at a median distance of |"]
    lines += ["|---" * 4 + "|"]
    for name, of in found.items():
        lines.append(f"| `{name}` | {mean_std([f['without'] for f in of])} | {' | '.join(carlini_wagner(of))} |")
    return lines


def summary(found: dict[str, list[dict]]) -> str:
    """What goes into the log."""
    i = EPSILONS.index(0.2)
    plain, distilled = found.values()

    def right(of: list[dict], key: str) -> str:
        return mean_std([f[key][i] for f in of]) + " %"

    def distance(of: list[dict]) -> str:
        fooled, median = carlini_wagner(of)
        return f"{fooled} % of the images it gets right, at a median distance of {median}"

    return (
        f"`robustness/run.py`, {len(plain)} seeds. Right answers on the digits after FGSM with a step of "
        f"{EPSILONS[i]}: {right(plain, 'fgsm')} of `{PLAIN}`, {right(distilled, 'fgsm')} of `{DISTILLED}`, and "
        f"{right(distilled, 'divided')} of the latter where the attack divides its logits by {TEMPERATURE:g}. "
        f"Carlini and Wagner's attack fools `{PLAIN}` on {distance(plain)}, and `{DISTILLED}` on {distance(distilled)}."
    )


def carlini_wagner(of: list[dict]) -> tuple[str, str]:
    """Share of the images that the attack fools a network on, in per cent, and how far from them."""
    right = [f["distance"][f["distance"] > 0] for f in of]  # what is wrong anyway needs no attack
    fooled = mean_std([d.isfinite().double().mean().item() for d in right])
    return fooled, mean_std([d.median().item() for d in right], 3, 1)


def plot(found: dict[str, list[dict]]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (name, of), colour in zip(found.items(), ("tab:gray", "tab:blue"), strict=True):
        for key, style, label in (("fgsm", "-o", name), ("divided", "--o", f"{name}, logits / {TEMPERATURE:g}")):
            means = [100 * statistics.mean(values) for values in zip(*(f[key] for f in of), strict=True)]
            left.plot(EPSILONS, means, style, color=colour, markersize=3, label=label)
        every = torch.cat([f["distance"] for f in of]).sort().values
        still = 100 * (1 - torch.arange(1, len(every) + 1) / len(every))
        right.step(every[every.isfinite()], still[every.isfinite()], where="post", color=colour, label=name)
    left.set(title="FGSM", xlabel="step of each pixel (black 0, white 1)", ylabel="right answers, %")
    right.set(title="Carlini and Wagner, L2", xlabel="distance allowed", xlim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(HERE / "robustness.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="small networks are fastest with one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    test = Digits().read_test()
    x, y = test.x / 255, test.targets
    names = (PLAIN, DISTILLED)
    found = {name: [measured(network(name, seed), x, y) for seed in options.seeds] for name in names}
    lines = [
        "# Robustness of defensive distillation",
        "",
        f"{len(y)} test images of the digits, mean ± standard deviation of {len(options.seeds)} seeds; foolbox "
        f"{foolbox.__version__}, torch {torch.__version__.split('+')[0]}. By `benchmarks/robustness/run.py`.",
        "",
        *table(found),
        "",
        "![Right answers under both attacks](robustness.png)",
        "",
    ]
    (HERE / "results.md").write_text("\n".join(lines))
    plot(found)
    log.add("robustness of defensive distillation", summary(found))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
