import json

import pytest
import torch

from .golden_table import FOLDER, HERE, TABLE, Case, adapter_of, check, load, names

COVERED = [name for name in names() if adapter_of(name)]


@pytest.mark.parametrize("name", COVERED)
def test_equals_golden(name):
    check(load(name), adapter_of(name))


def test_folder_has_cases():
    assert COVERED, f"no case of {FOLDER} is covered by the table"


def test_every_entry_has_a_case():
    used = {adapter_of(name, HERE) for name in names(HERE)}
    assert [name for name, adapter in TABLE.items() if adapter not in used] == []


@pytest.mark.parametrize(
    ("stem", "mode", "covered"),
    [
        ("gjsd__another", "paper", True),
        ("gjsd__another", "code", False),
        ("gjsd", "code", True),
        ("unheard_of", "paper", False),
    ],
)
def test_look_up(tmp_path, stem, mode, covered):
    (tmp_path / "sequence").mkdir()
    about = {"method": stem.partition("__")[0], "mode": mode}
    (tmp_path / f"sequence/{stem}.json").write_text(json.dumps(about))
    adapter = adapter_of(f"sequence/{stem}", tmp_path)
    assert adapter is (TABLE["sequence/gjsd"] if covered else None)


def case(**outputs):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    golden = {"loss": torch.tensor(5.0, dtype=torch.float64), **outputs}
    grads = {"x": torch.tensor([2.0, 4.0], dtype=torch.float64)}
    return Case("family/squares", "squares", "paper", {}, {"x": x}, golden, grads, rtol=1e-6)


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        (lambda c: {"loss": c.inputs["x"].square().sum() * (1 + 1e-5)}, "family/squares, loss"),
        (lambda c: {"loss": c.inputs["x"].square().sum().float()}, "family/squares, loss"),
        (
            lambda c: {"loss": c.inputs["x"].square().sum() + c.inputs["x"][0] - c.inputs["x"][0].detach()},
            r"family/squares, grad\.x",
        ),
        (lambda c: {}, "adapter gives"),
        (lambda c: {"loss": c.inputs["x"].square().sum(), "other": c.inputs["x"]}, "adapter gives"),
    ],
)
def test_check_finds_what_is_wrong(adapter, complaint):
    check(case(), lambda c: {"loss": c.inputs["x"].square().sum()})
    with pytest.raises(AssertionError, match=complaint):
        check(case(), adapter)


def test_check_wants_the_value_of_each_token():
    with pytest.raises(AssertionError, match="adapter gives"):
        check(case(per_token=torch.zeros(2)), lambda c: {"loss": c.inputs["x"].square().sum()})


def test_gradients_of_a_second_scalar():
    def adapter(c, factor=1.0):
        x = c.inputs["x"]
        (grad,) = torch.autograd.grad(x.pow(3).sum() * factor, x)
        return {"loss": x.square().sum(), "grad.cubes.x": grad}

    golden = case()
    golden.grads["cubes.x"] = torch.tensor([3.0, 12.0], dtype=torch.float64)
    check(golden, adapter)
    with pytest.raises(AssertionError, match=r"family/squares, grad\.cubes\.x"):
        check(golden, lambda c: adapter(c, factor=2.0))
