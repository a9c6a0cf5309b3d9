import inspect
import re
import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser

from lit_distill import losses
from lit_distill.losses import DistillLoss, Divergence

BASES = {"DistillLoss", "Divergence", "FeatureLoss", "LogitLoss", "Modifier", "RelationalLoss"}
METHODS = [getattr(losses, name) for name in losses.__all__ if name not in BASES]
TERMS = [method for method in METHODS if issubclass(method, DistillLoss)]


def test_losses_need_no_lightning():
    code = "import sys, lit_distill.losses; print([m for m in sys.modules if m.partition('.')[0] in " + (
        "('lightning', 'lightning_fabric', 'pytorch_lightning', 'torchmetrics', 'jsonargparse')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_method_is_a_term_or_a_divergence():
    assert all(issubclass(method, DistillLoss | Divergence) for method in METHODS)
    assert len(TERMS) > 1


@pytest.mark.parametrize("method", METHODS)
def test_docstring_says_what_users_ask(method):
    text = inspect.cleandoc(method.__doc__)
    assert re.match(r".+\.\n\nPaper: ", text), "a title sentence, then the paper"
    link = r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|openaccess\.thecvf\.com/content\w*/\S+|papers\.nips\.cc/\S+\.html"
    link += r"|openreview\.net/forum\?id=\w+)"
    assert re.search(rf"^Paper: (.+\n    )*.*{link}[;\n]", text, re.M)
    assert re.search(r"^Code: ``[\w.-]+/[\w.-]+:[\w./-]+``", text, re.M)
    for section in ("Shape:\n", "Raises:\n", "Traps:\n    - ", "Example:\n    >>> ", ".. math:: "):
        assert f"\n{section}" in text, section
    own = [name for name in inspect.signature(method.__init__).parameters if name not in ("self", "kwargs", "args")]
    for name in own if "__init__" in vars(method) else []:
        assert re.search(rf"^    {name}: \w", text, re.M), f"Args must explain {name}"


@pytest.mark.parametrize("method", TERMS)
def test_constructor_arguments_are_yaml_keys(method):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, "loss")
    keys = {key.removeprefix("loss.") for key in parser.get_defaults().keys()}  # noqa: SIM118 (a Namespace)
    own = {name for name in inspect.signature(method.__init__).parameters if name not in ("self", "kwargs")}
    assert own | {"weight", "teacher"} <= {key.partition(".")[0] for key in keys}


def test_a_divergence_is_named_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=dict[str, DistillLoss])
    config = parser.parse_string(
        """
        losses:
          ab:
            class_path: lit_distill.losses.DivergenceKD
            init_args:
              weight: 2.0
              temperature: 3.0
              divergence:
                class_path: lit_distill.losses.AlphaBeta
                init_args: {alpha: 0.5, beta: 0.5}
        """
    )
    loss = parser.instantiate(config).losses["ab"]
    assert (loss.weight, loss.temperature, loss.divergence.alpha) == (2.0, 3.0, 0.5)
