"""A checkpoint that is made when it is missing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from lit_distill.errors import InputError
from lit_distill.presets import find

# A recipe is one process on one device and a run of its own, whatever started it: a rank of a distributed job, a
# seeded run, an agent of a sweep.
OURS = {
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
    "WANDB_RUN_ID",
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
}
OUR_PREFIXES = ("TORCHELASTIC_", "SLURM_")
IN_TRAINING = "LIT_DISTILL_IN_TRAINING"  # files that the processes above this one are making


def trained(path: str | Path, recipe: str | None = None) -> Path:
    """The file at ``path``; when it is missing, it is trained from ``recipe`` first.

    The training is a process of its own on one device. Of several processes that ask for the same file exactly
    one trains, the others wait for it. Nothing is left at ``path`` when it fails.

    Args:
        path: A file of weights; one that a recipe makes ends in ``.safetensors``.
        recipe: A preset that ``lit-distill fit`` trains: a YAML file of yours or the name of one of the presets.

    Raises:
        InputError: The file is missing and there is no such recipe, or its training failed.
    """
    path = Path(path).expanduser().absolute()
    if path.exists():
        return path
    if recipe is None:
        raise InputError(f"path {path} does not exist, and no recipe is given to train it")
    config = find(recipe).absolute()
    if path.suffix != ".safetensors":
        raise InputError(f"path {path} does not exist; a recipe can only make a file that ends in .safetensors")
    if str(path) in os.environ.get(IN_TRAINING, "").split(os.pathsep):
        raise InputError(f"recipe {recipe!r} needs {path}, the very file it should make")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():  # another process may have made it while this one waited
            _train(path, recipe, _command(path, config))
    return path


def _train(path: Path, recipe: str, command: list[str]) -> None:
    print(f"{path} is missing: training it from recipe {recipe}", flush=True)
    code = subprocess.run(command, env=_environment(path), check=False).returncode
    if code or not path.exists():
        # The file did not exist before, so what is there now is a failed run's.
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        raise InputError(f"recipe {recipe!r} did not make {path} (exit code {code}); to see why: {shlex.join(command)}")


def _command(path: Path, config: Path) -> list[str]:
    one_device = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    fit = [sys.executable, "-m", "lit_distill", "fit", "--config", str(config)]
    return [*fit, "--student_file.path", str(path), *one_device]


def _environment(path: Path) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if k not in OURS and not k.startswith(OUR_PREFIXES)}
    above = [ours[IN_TRAINING]] if IN_TRAINING in ours else []
    return ours | {IN_TRAINING: os.pathsep.join([*above, str(path)])}
