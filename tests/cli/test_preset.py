import subprocess
import sys

import pytest

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.errors import InputError

METHOD = (
    'class {}:\n    """Title.\n\n    Paper: Someone, Something, ICLR 2020, https://arxiv.org/abs/2001.00001\n    """\n'
)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library in a checkout, with presets beside the package."""
    package = tmp_path / "fake"
    for path, text in {
        "fake/losses/kd.py": METHOD.format("KD"),
        "fake/losses/at.py": METHOD.format("AttentionTransfer"),
        "fake/losses/lonely.py": METHOD.format("Lonely"),
        "fake/module.py": 'class Distiller:\n    """No method, so no paper."""\n',
        "configs/logit/kd_cifar.yaml": "kd: {class_path: KD}\n",
        "configs/logit/kd_digits.yaml": "# KD on digits.\nmodel: {class_path: Distiller}\nkd: {class_path: KD}\n",
        "configs/feature/a_digits.yaml": "ce: {class_path: SGD}\nkd:\n  class_path: fake.losses.kd.KD\n",
        "configs/feature/at_cifar.yaml": "at: {class_path: 'AttentionTransfer'}\n",
        "configs/feature/at_big_digits.yaml": "# class_path: Lonely\nat: {class_path: AttentionTransfer}\n",
        "configs/feature/twin_digits.yaml": "{}\n",
        "configs/logit/twin_digits.yaml": "{}\n",
        "configs/sweeps/kd_digits.yaml": "# Sweep of KD.\n",
        "configs/trainer/cpu.yaml": "# On the CPU.\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr(presets, "PACKAGE", package)
    return tmp_path


def test_presets_in_the_package_come_before_those_beside_it(library):
    assert presets.folder() == library / "configs"
    (library / "fake" / "configs").mkdir()
    assert presets.folder() == library / "fake" / "configs"


def test_a_library_without_presets_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "PACKAGE", tmp_path / "fake")
    with pytest.raises(InputError, match="reinstall") as error:
        presets.find("kd")
    assert str(tmp_path / "fake" / "configs") in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "configs/logit/kd_digits.yaml",
        "./configs/logit/kd_digits.yaml",
        "logit/kd_digits.yaml",
        "logit/kd_digits",
        "kd_digits.yaml",
        "kd_digits",
        "KD_Digits",
        "kd",
        "KD",
    ],
)
def test_every_name_of_a_preset_finds_it_from_any_folder(library, tmp_path_factory, monkeypatch, name):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert presets.find(name) == library / "configs/logit/kd_digits.yaml"


def test_a_method_without_a_preset_of_its_own_name_means_its_preset_on_digits(library):
    assert presets.find("attentiontransfer").name == "at_big_digits.yaml"


def test_a_file_of_the_user_comes_before_a_preset_of_that_name(library, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with open("kd_digits.yaml", "w") as file:
        file.write("mine: true\n")
    assert presets.find("kd_digits.yaml").read_text() == "mine: true\n"


def test_a_file_without_suffix_does_not_hide_a_preset(library, tmp_path_factory, monkeypatch):
    # `lit-distill preset kd > kd`: the shell has created the file before the preset is looked up.
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    open("kd", "w").close()
    assert presets.find("kd") == library / "configs/logit/kd_digits.yaml"


@pytest.mark.parametrize("name", ["sgd", "distiller", "lonely", "nonsense", "", "missing/kd_digits.yaml"])
def test_what_names_no_preset_is_refused_in_one_line(library, name):
    with pytest.raises(InputError, match=repr(name)) as error:
        presets.find(name)
    assert "\n" not in str(error.value)


def test_a_typo_gets_close_names(library):
    with pytest.raises(InputError, match="kd_cifar"):
        presets.find("kd_cifra")


def test_two_runs_of_one_name_must_be_told_apart(library):
    with pytest.raises(InputError, match=r"feature/twin_digits or logit/twin_digits"):
        presets.find("twin_digits")
    assert presets.find("feature/twin_digits") == library / "configs/feature/twin_digits.yaml"


def test_a_sweep_does_not_take_the_name_of_its_run(library):
    assert presets.find("sweeps/kd_digits") == library / "configs/sweeps/kd_digits.yaml"
    short = presets.short_names(presets.all_presets())
    assert short[library / "configs/logit/kd_digits.yaml"] == "kd_digits"
    assert short[library / "configs/sweeps/kd_digits.yaml"] == "sweeps/kd_digits"


def test_every_preset_that_ships_is_found_by_its_names_and_says_what_it_is(capsys):
    every = presets.all_presets()
    assert every
    for preset, short in presets.short_names(every).items():
        assert presets.find(short) == preset
        assert presets.find(presets.full_name(preset)) == preset
    assert main(["preset"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == [presets.full_name(preset) for preset in every]
    for (_, text), preset in zip(rows, every, strict=True):
        assert text == preset.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def test_the_preset_alone_goes_to_standard_output(library, capfdbinary):
    text = "# µ and ².\r\nmodel: {}\n".encode()  # neither encoding nor line ends change
    (library / "configs/logit/kd_digits.yaml").write_bytes(text)
    assert main(["preset", "kd_digits"]) == 0
    said = capfdbinary.readouterr()
    assert said.out == text
    assert said.err.count(b"\n") == 1
    assert b"lit-distill fit --config kd_digits.yaml" in said.err


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cpu", "fit --config PRESET.yaml --config cpu.yaml"),
        ("sweeps/kd_digits", "wandb sweep kd_digits.yaml"),
    ],
)
def test_a_part_is_not_run_alone(library, capfd, name, command):
    assert main(["preset", name]) == 0
    assert capfd.readouterr().err.strip().endswith(command)


def test_a_file_of_the_user_is_run_where_it_is(library, capfd):
    mine = library / "mine.yaml"
    mine.write_text("model: {}\n")
    assert main(["preset", str(mine)]) == 0
    assert capfd.readouterr().err == f"run it: lit-distill fit --config {mine}\n"


def test_the_list_fits_the_terminal(library, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    (library / "configs/logit/kd_cifar.yaml").write_text(f"# {'long ' * 30}\n")
    assert main(["preset"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 30


def test_an_unknown_name_has_status_2_and_one_line(library, capsys):
    assert main(["preset", "kd_digit"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "kd_digits" in said.err


def test_no_torch():
    code = (
        "import sys; from lit_distill.cli import main; assert main(['preset', 'kd']) == 0;"
        "assert not {'torch', 'lightning', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
