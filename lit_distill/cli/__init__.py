"""The command line: ``lit-distill fit | validate | test | predict`` and the tools.

Nothing here imports torch before it is needed, so that ``lit-distill methods`` answers at once.
"""

import os
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper

from lit_distill.errors import InputError

#: Tools by name: the module whose ``run(arguments)`` is the tool, and what ``--help`` says of it.
TOOLS = {
    "methods": ("lit_distill.cli.methods", "table of every method; `methods kd` explains one"),
    "preset": ("lit_distill.cli.preset", "list the presets, or print one: `preset kd > my.yaml`"),
    "doctor": (
        "lit_distill.cli.doctor",
        "dry run of a preset: shapes, terms, memory, speed, and what looks wrong",
    ),
    "stages": ("lit_distill.cli.stages", "several runs from one file, skipped or resumed where they are done in part"),
    "labels": ("lit_distill.cli.labels", "ask a preset's teacher once, and store its answers for many students"),
    "relabel": ("lit_distill.cli.relabel", "ask a teacher about a distilled set, and store its answers beside it"),
    "evaluate": (
        "lit_distill.cli.evaluate",
        "train fresh networks on a distilled set, and beside it on as many real images",
    ),
    "experts": ("lit_distill.cli.experts", "train the experts whose trajectories a preset matches, ahead of its fit"),
    "export": ("lit_distill.cli.export", "the student alone, as safetensors, torch.export and ONNX"),
}

COMMANDS = ("fit", "validate", "test", "predict", *TOOLS)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``lit-distill``; default: ``sys.argv``.

    Returns:
        The exit status: 0, or 2 when the user's input cannot be used: one line on standard error says why, and with
        ``LIT_DISTILL_DEBUG=1`` the traceback before it where.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?" and not a traceback
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script has its own folder there, and not the one of the user's `mine.py`
    try:
        command = arguments[0] if arguments else ""
        if command in TOOLS:
            run: Callable[[list[str]], int] = import_module(TOOLS[command][0]).run
            return run(arguments[1:])
        if command not in COMMANDS and not command.startswith("-"):
            near = get_close_matches(command, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted first are {', '.join(COMMANDS)}"
            raise InputError(f"{command or 'nothing'} is no command; {hint}")
        return import_module("lit_distill.cli.trainer").run(arguments)
    except BrokenPipeError:  # `lit-distill methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 0
    except InputError as error:
        if os.environ.get("LIT_DISTILL_DEBUG"):
            traceback.print_exc()
        print(f"lit-distill: error: {error}", file=sys.stderr)
        return 2
