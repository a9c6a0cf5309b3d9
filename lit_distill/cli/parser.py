"""LightningCLI's parser, whose errors are one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lit_distill.cli.messages import Refused, refusal


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line that tells the user what to mend.

    jsonargparse makes one parser for each class that a setting names, and each hands its error to the one around it;
    there the names of settings, the types that were tried and whole values pile up.
    """

    subject = ""  # the class or function whose arguments this parser takes, if it is that of one

    def add_class_arguments(self, class_type: type, *args: Any, **kwargs: Any) -> list[str]:
        """Take the arguments of a class, and remember its name for messages."""
        if not args and "nested_key" not in kwargs:
            self.subject = class_type.__name__
        return super().add_class_arguments(class_type, *args, **kwargs)

    def add_function_arguments(
        self, function: Any, *args: Any, linked_targets: object = None, **kwargs: Any
    ) -> list[str]:
        """Take the arguments of a function, and remember its name for messages.

        jsonargparse 4.53 hands links to the model's arguments on to functions that make parts of the model
        (``restored``, ``resnet8``) when a flag changes the model, and its own method refuses them.
        """
        if not args and "nested_key" not in kwargs:
            self.subject = getattr(function, "__name__", "")
        return super().add_function_arguments(function, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the part of the message that tells the user what to mend.

        Raises:
            Refused: Always.
        """
        if message.startswith(("Problems parsing config", "Unexpected config")):
            message = next(unreadable(self.args), message)
        within = next((error for error in causes(ex) if isinstance(error, Refused)), None)
        parser = getattr(ex, "subcommand_parser", None) or self
        names = [action.dest for action in parser._actions if not action.dest.endswith(("help", "config"))]
        raise refusal(message, within, self.subject, names) from ex


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def unreadable(arguments: list[str]) -> Iterator[str]:
    """Which of the config files that ``arguments`` name hold no settings, and why.

    Args:
        arguments: What follows the subcommand.
    """
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, given = flag.partition("=")
        path = Path(given or value)
        if name not in ("--config", "-c") or not path.is_file():
            continue
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            yield f"{path}, line {line}: no valid YAML ({error.problem})"
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            yield f"{path}: no valid YAML ({error})"
        else:
            if not isinstance(settings, dict):
                yield f"{path}: holds no settings; accepted are lines such as `data: {{class_path: Digits}}`"
