"""Settings of a resumed run that differ from those of its checkpoint."""

from collections.abc import Mapping
from typing import Any


def overrule(checkpoint: dict[str, Any], now: Mapping[str, Any]) -> None:
    """Lay what the user changed over a checkpoint's optimizer and scheduler states.

    PyTorch keeps learning rate, weight decay and the like in the optimizer's state, which a resumed run would
    silently go on with. Only what differs between the checkpoint's hyperparameters and the run's is changed, so that
    resuming with the same settings is exact. A learning rate that a scheduler has moved is scaled by the change.
    A sharded (FSDP2) checkpoint keeps its optimizer state in other files: there the checkpoint's settings stay.

    Args:
        checkpoint: A Lightning checkpoint; changed in place.
        now: The hyperparameters of the run that is being resumed.

    Example:
        >>> before = {"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}}
        >>> state = {"param_groups": [{"lr": 0.05, "initial_lr": 0.1, "momentum": 0.9}]}
        >>> checkpoint = {"hyper_parameters": before, "optimizer_states": [state]}
        >>> overrule(checkpoint, {"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.2, "momentum": 0.9}}})
        >>> checkpoint["optimizer_states"][0]["param_groups"]
        [{'lr': 0.1, 'initial_lr': 0.2, 'momentum': 0.9}]
    """
    before = checkpoint.get("hyper_parameters", {})
    optimizer = changed(before.get("optimizer"), now.get("optimizer"))
    scheduler = changed(before.get("scheduler"), now.get("scheduler"))
    schedulers = checkpoint.get("lr_schedulers", [])
    for group in (group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]):
        for name, (old, new) in optimizer.items():
            if name == "lr" and old:
                group["lr"] *= new / old
                if "initial_lr" in group:
                    group["initial_lr"] = new
            elif name in group:
                group[name] = new
    for state in schedulers:
        if "lr" in optimizer and "base_lrs" in state:
            state["base_lrs"] = [optimizer["lr"][1]] * len(state["base_lrs"])
        state.update({name: new for name, (_, new) in scheduler.items() if name in state})


def changed(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each argument that differs, for the same class; nothing where either is no preset's."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return {}
    if before.get("class_path") != now.get("class_path"):
        return {}
    old, new = before.get("init_args", {}), now.get("init_args", {})
    return {name: (old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]}
