"""A score of each training sample, on disk: safetensors, and a card beside them that says what they are."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import lit_distill
from lit_distill.errors import InputError
from lit_distill.models.recipe import trained
from lit_distill.student_file import card_path, write_whole

FORMAT = "1"


def save_scores(path: str | Path, scores: Tensor, targets: Tensor, card: Mapping[str, object]) -> None:
    """Write scores to ``path`` and a card beside them, with the suffix ``.json``. Each appears whole or not at all.

    The file remembers the labels by a hash, so that it is never taken for one of other data.

    Args:
        path: Where the scores go; ends in ``.safetensors``.
        scores: The score at each position of the training set, ``(N,)``; nan where there is none.
        targets: Class of every sample of the training set, int64 ``(N,)``.
        card: What else to say about the scores, in plain values. Added are ``format``, ``lit_distill``, ``torch``
            (versions), ``samples``, ``scored`` (how many have a score), ``targets`` (the hash) and ``created`` (UTC).

    Raises:
        InputError: When ``path`` has another suffix.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> targets = torch.tensor([0, 1, 1])
        >>> with TemporaryDirectory() as folder:
        ...     save_scores(f"{folder}/s.safetensors", torch.tensor([0.5, 0.25, 1.0]), targets, {"epoch": 6})
        ...     load_scores(f"{folder}/s.safetensors", targets)
        tensor([0.5000, 0.2500, 1.0000])
    """
    path = checked(path)
    facts = {
        "format": int(FORMAT),
        "lit_distill": lit_distill.__version__,
        "torch": torch.__version__,
        "samples": len(scores),
        "scored": int(scores.isfinite().sum()),
        "targets": fingerprint(targets),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    own = {"scores": scores.detach().float().cpu().contiguous()}
    about = {"format": FORMAT, "targets": fingerprint(targets)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: save_file(own, file, metadata=about))
    text = json.dumps(facts | dict(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(card_path(path), lambda file: file.write_text(text, encoding="utf-8"))


def load_scores(path: str | Path, targets: Tensor) -> Tensor:
    """The score at each position of the training set, float32 ``(N,)``; nan where there is none.

    Args:
        path: What :func:`save_scores` wrote.
        targets: Class of every sample of the training set, int64 ``(N,)``.

    Raises:
        InputError: When the file is no such file, or belongs to other data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about, names = file.metadata() or {}, set(file.keys())
            if about.get("format") != FORMAT or names != {"scores"}:
                raise InputError(f"scores: {path} holds none; accepted are files of the callbacks EL2N and Forgetting")
            scores: Tensor = file.get_tensor("scores")
    except (SafetensorError, OSError) as error:
        raise InputError(f"scores: {path} cannot be read: {' '.join(str(error).split())}") from error
    if len(scores) != len(targets):
        raise InputError(f"scores: {path} is of {len(scores)} samples, the training set has {len(targets)}")
    if about.get("targets") != fingerprint(targets):
        raise InputError(f"scores: {path} is of another training set of {len(targets)} samples: its labels differ")
    return scores


def recorded(path: str | Path, recipe: str | None = None) -> Path:
    """The file of scores at ``path``; when it is missing, it is recorded by ``recipe`` first.

    Args:
        path: The file.
        recipe: A preset whose callbacks write the file.

    Raises:
        InputError: When there is no file and no recipe, or the recipe did not make it.
    """
    path = Path(path).expanduser()
    if path.exists():
        return path
    if recipe is None:
        raise InputError(
            f"scores: {path} does not exist, and no recipe is given to record it; the callbacks EL2N and Forgetting "
            "write such files"
        )
    network = trained(path.with_name(f"{path.stem}_network.safetensors"), recipe)
    if not path.exists():
        raise InputError(
            f"scores: recipe {recipe!r} did not make {path}; name this file in one of its callbacks, and delete "
            f"{network} to run it again"
        )
    return path


def fingerprint(targets: Tensor) -> str:
    """A hash of all labels in their order.

    Args:
        targets: Class of every sample, int64 ``(N,)``.
    """
    return hashlib.sha256(targets.cpu().numpy().astype("<i8").tobytes()).hexdigest()


def checked(path: str | Path) -> Path:
    """``path`` if it can name a file of scores.

    Raises:
        InputError: When it does not end in ``.safetensors``.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"path: {path} given for scores; accepted are names that end in .safetensors")
    return Path(path)
