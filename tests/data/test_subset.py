"""Training on some of the training samples."""

import subprocess
import sys

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from safetensors.torch import save_file

from lit_distill.data import Digits, RandomSubset, ScoredSubset
from lit_distill.data.score_file import load_scores, save_scores
from lit_distill.errors import InputError
from lit_distill.models import recipe
from lit_distill.student_file import load_card

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

TARGETS = Digits().read_train().targets
SIZE = len(TARGETS)


@pytest.fixture
def scores(tmp_path):
    """Writes scores of the digits, and gives the file's name."""

    def write(values, name="s", targets=TARGETS):
        path = tmp_path / f"{name}.safetensors"
        save_scores(path, values, targets, {})
        return str(path)

    return write


@pytest.fixture
def distinct():
    return torch.randperm(SIZE, generator=torch.Generator().manual_seed(0)).float()


def kept(subset, **kwargs):
    data = Digits(subset=subset, **kwargs)
    data.setup("fit")
    return data.parts["train"].positions


def every():
    return kept(None)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("limit", [None, 100])
def test_a_fraction_of_1_is_all_of_the_data_bit_for_bit(balanced, limit, scores, distinct, recorder, trainer):
    def seen(subset):
        module = recorder()
        trainer().fit(module, Digits(subset=subset, limit=limit, index=True, augment=True))
        return module.batches

    plain = seen(None)
    for subset in (RandomSubset(1.0, balanced), ScoredSubset([scores(distinct)], 1.0, balanced=balanced)):
        pruned = seen(subset)
        for stage in ("train", "val"):
            for ours, theirs in zip(pruned[stage], plain[stage], strict=True):
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def subsets(scores, distinct, fraction, **kwargs):
    file = scores(distinct)
    yield RandomSubset(fraction, **kwargs)
    for keep in ("hardest", "easiest"):
        yield ScoredSubset([file], fraction, keep, **kwargs)


@pytest.mark.parametrize("balanced", [False, True])
def test_sizes_are_exact_and_smaller_ones_are_parts_of_larger_ones(balanced, scores, distinct):
    everything = set(every().tolist())
    fractions = (0.0001, 0.1, 1 / 3, 0.5, 0.9)
    for family in zip(*(subsets(scores, distinct, f, balanced=balanced) for f in fractions), strict=True):
        positions = [kept(subset) for subset in family]
        sizes = [max(1, round(f * len(everything))) for f in fractions]
        assert [len(p) for p in positions] == sizes
        for small, large in zip(positions, [*positions[1:], every()], strict=True):
            assert set(small.tolist()) < set(large.tolist()) <= everything


def test_balanced_means_the_same_share_of_every_class(scores):
    hard = TARGETS.float()  # the hardest are the nines
    counts = TARGETS[every()].bincount()
    for subset in subsets(scores, hard, 0.3, balanced=True):
        assert (TARGETS[kept(subset)].bincount(minlength=10) - 0.3 * counts).abs().max() <= 1
    assert set(TARGETS[kept(ScoredSubset([scores(hard)], 0.05))].tolist()) == {9}


def test_the_choice_depends_on_seed_and_samples_alone(scores, distinct):
    shuffled = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    for subset in subsets(scores, distinct, 0.4):
        chosen = subset(shuffled, TARGETS)
        assert torch.equal(chosen.sort().values, subset(torch.arange(SIZE), TARGETS))
        assert chosen.tolist() == [i for i in shuffled.tolist() if i in set(chosen.tolist())]  # in the given order
        assert torch.equal(kept(subset), kept(subset, batch_size=7, seed=5, augment=True))
    assert not torch.equal(kept(RandomSubset(0.4)), kept(RandomSubset(0.4, seed=1)))


def test_a_random_choice_is_one(scores):
    chosen = kept(RandomSubset(0.5))
    half = round(0.5 * len(every()))
    assert abs((chosen < SIZE / 2).sum() - half / 2) < 5 * (half / 8) ** 0.5


def test_hardest_and_easiest(scores, distinct):
    own = distinct[every()].sort().values
    hard, easy = (kept(ScoredSubset([scores(distinct)], 0.25, keep)) for keep in ("hardest", "easiest"))
    assert torch.equal(distinct[hard].sort().values, own[-len(hard) :])
    assert torch.equal(distinct[easy].sort().values, own[: len(easy)])


def test_equal_scores_are_kept_at_random(scores):
    events = (torch.arange(SIZE) % 4 == 0).float()  # three quarters were never forgotten
    first, again, other = (kept(ScoredSubset([scores(events)], 0.5, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert set(every()[events[every()] == 1].tolist()) < set(first.tolist())
    rest, others = (chosen[events[chosen] == 0] for chosen in (first, other))
    assert not torch.equal(rest, others)
    assert abs((rest < SIZE / 2).sum() - len(rest) / 2) < 5 * (len(rest) / 4) ** 0.5  # not the first ones


def test_the_mean_of_several_runs_counts(scores):
    a, b = torch.zeros(SIZE), torch.zeros(SIZE)
    best, second, third = every()[[5, 70, 9]].tolist()
    a[[best, second, third]] = torch.tensor([1.0, 3.0, 2.5])
    b[[best, second, third]] = torch.tensor([4.0, 1.0, 1.0])
    both = [scores(a, "a"), scores(b, "b")]
    for fraction, chosen in ((1, {best}), (2, {best, second}), (3, {best, second, third})):
        assert set(kept(ScoredSubset(both, fraction / len(every()))).tolist()) == chosen
    assert kept(ScoredSubset(both[:1], 1 / len(every()))).tolist() == [second]


@pytest.mark.parametrize("limit", [10, 2000])
def test_validation_is_untouched_and_limit_is_of_the_subset(limit, scores, distinct):
    plain = Digits()
    plain.setup("fit")
    for subset in subsets(scores, distinct, 0.2):
        data = Digits(subset=subset, limit=limit)
        data.setup("fit")
        assert torch.equal(data.parts["val"].positions, plain.parts["val"].positions)
        chosen = set(kept(subset).tolist())
        limited = set(data.parts["train"].positions.tolist())
        assert limited <= chosen
        assert len(limited) == min(limit, len(chosen))


def test_scores_of_other_data_are_refused(scores, distinct):
    with pytest.raises(InputError, match=rf"^scores: .*s.safetensors is of {SIZE - 1} samples, .* has {SIZE}$"):
        kept(ScoredSubset([scores(distinct[1:], targets=TARGETS[1:])], 0.5))
    swapped = TARGETS.clone()
    swapped[0], swapped[1] = TARGETS[1], TARGETS[0]
    assert TARGETS[0] != TARGETS[1]
    with pytest.raises(InputError, match=r"is of another training set .* its labels differ$"):
        kept(ScoredSubset([scores(distinct, targets=swapped)], 0.5))


def test_a_sample_without_a_score_is_refused(scores, distinct):
    held_out = Digits()
    held_out.setup("fit")
    distinct[held_out.parts["val"].positions] = torch.nan
    file = scores(distinct)
    assert len(kept(ScoredSubset([file], 0.5))) == round(0.5 * len(every()))
    with pytest.raises(InputError, match=r"^scores: .* has none for \d+ of 1294 training samples; .* split_seed"):
        kept(ScoredSubset([file], 0.5), split_seed=1)


def test_files_that_are_none(tmp_path):
    missing, text, weights = (str(tmp_path / f"{name}.safetensors") for name in ("missing", "text", "weights"))
    with pytest.raises(InputError, match=r"^scores: .*missing.safetensors does not exist, and no recipe .* Forgetting"):
        kept(ScoredSubset([missing], 0.5))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(InputError, match=r"^scores: .*text.safetensors cannot be read: [^\n]+$"):
        kept(ScoredSubset([text], 0.5))
    save_file({"scores": torch.zeros(SIZE)}, weights)
    with pytest.raises(InputError, match=r"^scores: .*weights.safetensors holds none; accepted are"):
        kept(ScoredSubset([weights], 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSubset(0.0), r"fraction: 0.0 is not in \(0, 1\]"),
        (lambda: RandomSubset(1.5), r"fraction: 1.5 is not in \(0, 1\]"),
        (lambda: ScoredSubset([], 0.5), "scores: got none"),
        (lambda: ScoredSubset(["s"], 0.5, keep="middle"), "keep: 'middle' is not hardest or easiest"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=f"^{message}"):
        make()


@pytest.fixture
def runs(monkeypatch):
    """What a recipe would run, and in its place what writes its files."""
    calls = []

    def fake(command, env, check):
        calls.append(command)
        save_file({"w": torch.zeros(1)}, command[command.index("--student_file.path") + 1])
        if env.get("RECORDS"):
            save_scores(env["RECORDS"], torch.arange(SIZE), TARGETS, {})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(recipe.subprocess, "run", fake)
    return calls


def test_a_missing_file_is_recorded_by_its_recipe_once(tmp_path, runs, monkeypatch):
    preset, file = tmp_path / "scores.yaml", tmp_path / "new" / "s.safetensors"
    preset.touch()
    monkeypatch.setenv("RECORDS", str(file))
    subset = ScoredSubset([str(file)], 0.5, recipe=str(preset))
    assert not runs  # not before data is read
    assert torch.equal(kept(subset), kept(subset))
    ((python, *command),) = runs
    assert [python, *command[:5]] == [sys.executable, "-m", "lit_distill", "fit", "--config", str(preset)]
    assert command[5:7] == ["--student_file.path", str(tmp_path / "new" / "s_network.safetensors")]


def test_a_recipe_that_records_something_else(tmp_path, runs):
    preset = tmp_path / "scores.yaml"
    preset.touch()
    with pytest.raises(InputError, match=r"^scores: recipe .* did not make .*s.safetensors; name this file in one"):
        kept(ScoredSubset([str(tmp_path / "s.safetensors")], 0.5, recipe=str(preset)))


def test_in_yaml(scores, distinct):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    settings = {"class_path": "ScoredSubset", "init_args": {"scores": [scores(distinct)], "fraction": 0.25}}
    config = {"data": {"class_path": "lit_distill.data.Digits", "init_args": {"subset": settings}}}
    data = parser.instantiate(parser.parse_object(config)).data
    data.setup("fit")
    assert torch.equal(data.parts["train"].positions, kept(ScoredSubset([scores(distinct)], 0.25)))


def test_the_file_and_its_card(tmp_path):
    path = tmp_path / "deep" / "s.safetensors"
    values = torch.tensor([0.5, torch.nan, 2.0]).double()
    save_scores(path, values, torch.tensor([4, 0, 4]), {"score": "EL2N", "epoch": 6})
    torch.testing.assert_close(load_scores(path, torch.tensor([4, 0, 4])), values.float(), equal_nan=True)
    card = load_card(path)
    assert {key: card[key] for key in ("samples", "scored", "score", "epoch")} == {
        "samples": 3,
        "scored": 2,
        "score": "EL2N",
        "epoch": 6,
    }
    assert sorted(file.name for file in path.parent.iterdir()) == ["s.json", "s.safetensors"]  # nothing half written
    with pytest.raises(InputError, match=r"^path: s.npz given for scores; accepted are names that end in .safetensors"):
        save_scores("s.npz", values, torch.tensor([4, 0, 4]), {})
