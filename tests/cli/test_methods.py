import importlib
import inspect
import json
import re
import subprocess
import sys
import time

import jsonargparse
import pytest
import torch
import yaml

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.methods import choose, explain, methods, python_usage, table, yaml_usage
from lit_distill.losses.base import DistillLoss

REAL = methods()
LOSSES = [method for method in REAL if method.is_loss]

BASE = '''
raise RuntimeError("this file was imported")

class DistillLoss:
    """The base.

    Args:
        weight: Factor of the term.
        layers: Pairs of
            layers.
    """

    def __init__(self, weight: float = 1.0, layers: dict[str, str] | None = None) -> None: ...

class LogitLoss(DistillLoss):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(layers=None, **kwargs)
'''
OLD = '''
from fake.losses import LogitLoss as Face

class Old(Face):
    r"""Old: the title.

    Paper: Adam, Berta and Carl, On Titles, With Commas, NIPS 2014 workshop (of 2013),
        https://arxiv.org/abs/1503.02531. And more in 2020.

    .. math:: a +
        b

    where 2 + 2 is

    .. math::

        4

    and a Code: in the text is no section, nor :math:`T^2`.

    Args:
        power: How much,
            or how little.
        mode: Which of two.

    Shape:
        Logits ``(B, C)``.

    Raises:
        InputError: Never.

    Traps:
        - One.
        - Two, which
          goes on.

    Code: ``owner/name:path``, equal to the
        paper.
    """

    def __init__(self, power: float, mode: Literal["a", "b"] = "a", *, twice: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
'''
NEW = '''
from fake.losses.base import DistillLoss

class New(DistillLoss):
    """New: its title is a long one, so long that a narrow terminal has no room for it.

    Paper:
        Doe, Short, ICLR 2021, https://arxiv.org/abs/2101.00001

    Args:
        weight: Another text.
    """

    def __init__(self, weight: float = 2.0, margin: float = LIMIT, sizes: tuple[int, ...] = (1, 2)) -> None:
        super().__init__(weight)

class Positional(DistillLoss):
    """Passes its weight by position.

    Paper: Doe, Short, ICLR 2019, https://arxiv.org/abs/2101.00001
    """

    def __init__(self, **kwargs):
        super().__init__(3.0, **kwargs)

class Helper(DistillLoss):
    """No Paper: nothing to show."""
'''
OTHER = '''
from torch import nn

class Matching(nn.Module):
    """Matching of something.

    Paper: Eve et al., Data, CVPR 2018, https://arxiv.org/abs/1801.00001
    """

    def __init__(self, steps: int = 3): ...
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library with two losses and a method of another family; none of it can be imported."""
    for path, text in {
        "fake/losses/base.py": BASE,
        "fake/losses/__init__.py": "from fake.losses.base import LogitLoss\n",
        "fake/losses/logit/old.py": OLD,
        "fake/losses/new.py": NEW,
        "fake/dataset/matching.py": OTHER,
        "configs/logit/old_digits.yaml": "losses: {old: {class_path: Old}}\n",
        "configs/logit/other.yaml": "losses: {old: {class_path: fake.losses.logit.old.Old}}\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr(presets, "PACKAGE", tmp_path / "fake")
    return tmp_path


def one(name):
    (method,) = choose(methods(), name)
    return method


def test_a_method_is_a_class_with_a_paper_sorted_by_family_and_year(library):
    found = [(m.family, m.year, m.name, m.path) for m in methods()]
    assert found == [
        ("dataset", 2018, "Matching", "fake.dataset.matching.Matching"),
        ("general", 2019, "Positional", "fake.losses.new.Positional"),
        ("general", 2021, "New", "fake.losses.new.New"),
        ("logit", 2014, "Old", "fake.losses.logit.old.Old"),
    ]


def test_the_paper_in_short(library):
    old, new = one("old"), one("new")
    assert (old.authors, old.year, old.link) == (
        "Adam et al., NIPS workshop",
        2014,
        "https://arxiv.org/abs/1503.02531",
    )
    assert (new.authors, new.year, new.link) == ("Doe, ICLR", 2021, "https://arxiv.org/abs/2101.00001")


def test_sections_beside_and_under_their_names(library):
    old = one("old")
    assert old.title == "Old: the title."
    assert old.sections["Code"] == "``owner/name:path``, equal to the\npaper."
    assert old.sections["Shape"] == "Logits ``(B, C)``."
    assert old.sections["Traps"] == "- One.\n- Two, which\n  goes on."
    assert old.sections["Example"] == ""
    assert old.formula == "a +\nb\n4"
    assert old.about == (
        "    a +\n    b\n\nwhere 2 + 2 is\n\n    4\n\nand a Code: in the text is no section, nor :math:`T^2`."
    )


def test_arguments_come_from_the_class_and_through_kwargs_from_its_bases(library):
    arguments = one("old").arguments
    assert {n: (a.type, a.default, a.inherited) for n, a in arguments.items()} == {
        "power": ("float", None, False),
        "mode": ("Literal['a', 'b']", "'a'", False),
        "twice": ("bool", "True", False),
        "weight": ("float", "1.0", True),  # and no layers: LogitLoss fixes them
    }
    assert arguments["power"].text == "How much, or how little."
    assert arguments["weight"].text == "Factor of the term."


def test_arguments_that_a_class_does_not_pass_on_are_not_its_own(library):
    assert list(one("new").arguments) == ["weight", "margin", "sizes"]
    assert one("new").arguments["weight"].text == "Another text."
    assert list(one("positional").arguments) == ["layers"]
    assert one("positional").arguments["layers"].text == "Pairs of layers."


def test_usage_is_yaml_and_python(library):
    assert yaml.safe_load(yaml_usage(one("old"))) == {
        "losses": {"old": {"class_path": "Old", "init_args": {"power": "...", "mode": "a", "twice": True}}}
    }
    # a default that is an expression is left out
    assert yaml.safe_load(yaml_usage(one("new")))["losses"]["new"]["init_args"] == {
        "weight": 2.0,
        "sizes": [1, 2],
    }
    assert yaml.safe_load(yaml_usage(one("matching"))) == {
        "class_path": "fake.dataset.matching.Matching",
        "init_args": {"steps": 3},
    }
    assert "loss = New(weight=2.0, sizes=(1, 2))" in python_usage(one("new"))
    for name in ("old", "new", "matching"):
        compile(python_usage(one(name)), name, "exec")


def test_presets_by_their_shortest_name_the_own_one_first(library):
    assert one("old").presets == ["old_digits", "other"]
    assert one("new").presets == []


@pytest.mark.parametrize("columns", [20, 60, 80, 120, 500])
def test_the_table_fits_and_is_aligned(library, columns):
    head, *rows = table(methods(), columns).splitlines()
    assert len(rows) == len(methods())
    assert all(len(line) <= columns for line in (head, *rows))
    if columns >= 60:
        for column in ("family", "year", "preset", "what"):
            start = head.index(column)
            assert {line[start - 2 : start] for line in (head, *rows)} <= {"  "}
        assert [row[head.index("year") :][:4] for row in rows] == ["2018", "2019", "2021", "2014"]


def test_only_where_there_is_no_room_titles_are_cut(library):
    title = one("new").title
    assert title in table(methods(), 500)
    assert title not in table(methods(), 100)
    assert title[:10] in table(methods(), 100)


def test_a_family_and_a_method_by_name(library, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods", "GENERAL"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["Positional", "New"]
    assert main(["methods", "old"]) == 0
    out = capsys.readouterr().out
    assert out == explain(one("Old")) + "\n"
    assert "section, nor `T^2`." in out
    for part in ("Old: the title.", "How much, or how little.", "weight: float = 1.0", "- Two, which", "old_digits"):
        assert part in out


@pytest.mark.parametrize(("name", "close"), [("odl", "Old"), ("logits", "logit"), ("zzzz", "dataset")])
def test_an_unknown_name_has_status_2_and_one_line(library, capsys, name, close):
    assert main(["methods", name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert name in said.err
    assert close in said.err


@pytest.mark.parametrize(("args", "names"), [([], 4), (["general"], 2), (["old"], 1)])
def test_json_is_a_list_with_everything(library, capsys, args, names):
    assert main(["methods", *args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == names
    by_name = {row["name"]: row for row in rows}
    if "Old" in by_name:
        assert by_name["Old"]["year"] == 2014
        assert by_name["Old"]["arguments"]["power"]["default"] is None
        assert by_name["Old"]["presets"] == ["old_digits", "other"]


def test_no_torch_and_no_wait():
    code = (
        "import sys; from lit_distill.cli import main; assert main(['methods']) == main(['methods', 'kd']) == 0;"
        "assert not {'torch', 'lightning', 'yaml', 'rich'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(f"lit-distill methods, twice: {time.perf_counter() - start:.2f} s")
    assert done.returncode == 0, done.stderr
    assert "Distilling the Knowledge in a Neural Network" in done.stdout


def test_every_loss_of_the_library_is_a_method():
    public = set()
    for family in ("logit", "feature", "relational"):
        for file in (presets.PACKAGE / "losses" / family).rglob("*.py"):
            path = ".".join(file.relative_to(presets.PACKAGE.parent).with_suffix("").parts)
            module = importlib.import_module(path.removesuffix(".__init__"))
            for name, thing in inspect.getmembers(module, inspect.isclass):
                own = thing.__module__ == module.__name__ and not name.startswith("_")
                if own and issubclass(thing, DistillLoss):
                    public.add(f"{module.__name__}.{name}")
    assert public
    assert public <= {method.path for method in LOSSES}, "a loss without a Paper section"


@pytest.mark.parametrize("method", REAL, ids=lambda m: m.name)
def test_the_paper_of_every_method_can_be_read(method):
    assert method.year is not None
    assert method.link
    if arxiv := re.search(r"arxiv\.org/abs/(\d\d)\d\d\.", method.link):
        # A slip in either shows: papers are on arXiv from a year after to some years before they are published.
        assert -1 <= method.year - (2000 + int(arxiv[1])) <= 4
    authors, _, venue = method.authors.partition(", ")
    assert authors
    assert venue
    assert method.title.endswith(".")


@pytest.mark.parametrize("method", LOSSES, ids=lambda m: m.name)
def test_every_loss_is_fully_described(method):
    assert method.formula
    for section in ("Shape", "Raises", "Traps", "Code"):
        assert method.sections[section], section
    for name, argument in method.arguments.items():
        assert argument.text, f"{name} is not in Args"
        assert argument.type != "Any", f"{name} has no type"


@pytest.mark.parametrize("method", REAL, ids=lambda m: m.name)
def test_arguments_read_from_the_source_are_those_of_the_command_line(method):
    module, _, name = method.path.rpartition(".")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(importlib.import_module(module), name), "it", fail_untyped=False)
    defaults = vars(parser.get_defaults().get("it", jsonargparse.Namespace()))
    assert list(method.arguments) == list(defaults)
    for key, argument in method.arguments.items():
        assert argument.default in (None, repr(defaults[key])), key


@pytest.mark.parametrize("method", LOSSES, ids=lambda m: m.name)
def test_the_yaml_of_every_loss_names_its_class(method):
    module, _, name = method.path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=dict[str, DistillLoss])
    (settings,) = yaml.safe_load(yaml_usage(method))["losses"].values()
    # what has no default is for the user to fill in
    settings["init_args"] = {k: v for k, v in settings.get("init_args", {}).items() if v != "..."}
    missing = [k for k, a in method.arguments.items() if a.default is None and k != "layers"]
    if missing:
        with pytest.raises(jsonargparse.ArgumentError, match=missing[0]):
            parser.parse_object({"losses": {"it": settings}})
    else:
        config = parser.parse_object({"losses": {"it": settings}})
        module, _, name = config.losses["it"].class_path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is kind


@pytest.mark.parametrize(
    ("name", "calls"), [("OFA", ["build"]), ("WKDL", ["attach"]), ("KD", []), ("Standardised", [])]
)
def test_what_comes_before_the_first_use_is_shown(name, calls):
    (method,) = choose(REAL, name)
    assert re.findall(r"^loss\.(\w+)\(", python_usage(method), re.M) == calls


def test_the_parameters_of_an_optimizer_are_not_set_in_yaml():
    (method,) = choose(REAL, "DOT")
    assert yaml.safe_load(yaml_usage(method))["init_args"].keys() >= {"lr", "delta"}
    assert "params" not in yaml_usage(method)


def test_half_of_the_table_can_be_read():
    command = f"{sys.executable} -m lit_distill methods kd | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("KD")
    assert not done.stderr


@pytest.mark.parametrize("name", ["KD", "FitNet", "RKD"])
def test_the_python_of_a_loss_runs(name):
    names = {
        "student_network": torch.nn.Identity(),
        "teacher_network": torch.nn.Identity(),
        "student_logits": torch.randn(4, 3),
        "teacher_logits": torch.randn(4, 3),
        "student_features": {"student.path": torch.randn(4, 2, 5, 5)},
        "teacher_features": {"teacher.path": torch.randn(4, 6, 5, 5)},
        "target": torch.tensor([0, 1, 2, 0]),
    }
    (method,) = choose(REAL, name)
    exec(python_usage(method), names)
    assert names["value"].shape == ()
    assert names["value"] > 0
