"""What an evaluation found, as JSON, as a table in Markdown, and as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_distill.student_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def write_report(folder: Path, rows: Rows, about: Mapping[str, Any]) -> None:
    """Write ``report.json``, ``report.md`` and ``report.png``, each of them whole or not at all.

    Args:
        folder: Where they go.
        rows: What :func:`evaluate` gave.
        about: What else to say: recipe, split, seed, which sets these are.
    """
    text = json.dumps({**about, "rows": list(rows)}, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(folder / "report.json", lambda file: file.write_text(text, encoding="utf-8"))
    title = about.get("title", "")
    markdown = f"{title}\n\n{table(rows)}\n"
    write_whole(folder / "report.md", lambda file: file.write_text(markdown, encoding="utf-8"))
    figure = plot(rows, title)
    write_whole(folder / "report.png", lambda file: figure.savefig(file, format="png", dpi=150))


def table(rows: Rows) -> str:
    """A table in Markdown: a line for each set with its labels, a column for each network.

    Args:
        rows: What :func:`evaluate` gave.

    Example:
        >>> row = {"model": "convnet", "set": "random", "labels": "hard", "mean": 0.5, "std_networks": 0.03}
        >>> print(table([row | {"std_sets": None}]))
        | set | labels | convnet |
        |---|---|---|
        | random | hard | 50.0 ± 3.0 |
    """
    lines = [["set", "labels", *models(rows)], ["---"] * (2 + len(models(rows)))]
    lines += [[*pair, *cells] for pair, cells in cells_of(rows).items()]
    return "\n".join("| " + " | ".join(line) + " |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def models(rows: Rows) -> list[str]:
    """The networks, in their order.

    Args:
        rows: What :func:`evaluate` gave.
    """
    return list(dict.fromkeys(row["model"] for row in rows))


def cells_of(rows: Rows) -> dict[tuple[str, str], list[str]]:
    """Accuracies in percent as text, by set and labels, in the order of :func:`models`.

    Args:
        rows: What :func:`evaluate` gave.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cells.setdefault((row["set"], row["labels"]), []).append(shown(row))
    return cells


def shown(row: Mapping[str, Any]) -> str:
    """An accuracy in percent, with its deviation over networks, and apart from it that over sets.

    Args:
        row: One of what :func:`evaluate` gave.
    """
    text = f"{100 * row['mean']:.1f}"
    if row["std_networks"] is not None:
        text += f" ± {100 * row['std_networks']:.1f}"
    if row["std_sets"] is not None:
        text += f" (sets ± {100 * row['std_sets']:.1f})"
    return text


def plot(rows: Rows, title: str) -> "Figure":
    """Bars for each network: sets and labels beside each other, with a dot for each network that was trained.

    Args:
        rows: What :func:`evaluate` gave.
        title: Above them.
    """
    # Here, and without pyplot: see callbacks/curves.py.
    from matplotlib.figure import Figure

    names = models(rows)
    pairs = list(cells_of(rows))
    figure = Figure(figsize=(max(6.0, 2.5 + 0.5 * len(names) * (len(pairs) + 1)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    colors = {"distilled": "tab:blue", "random": "0.55", "herding": "tab:olive"}
    hatches = {"hard": "", "own": "//", "stored": "xx", "teacher": ".."}
    width = 1 / (len(pairs) + 1)
    for row in rows:
        pair = row["set"], row["labels"]
        x = names.index(row["model"]) + pairs.index(pair) * width
        first = row["model"] == names[0]
        axes.bar(
            x,
            100 * row["mean"],
            0.9 * width,
            yerr=None if row["std_networks"] is None else 100 * row["std_networks"],
            color=colors[row["set"]],
            hatch=hatches[row["labels"]],
            edgecolor="white",
            capsize=3,
            error_kw={"elinewidth": 0.8, "capthick": 0.8},
            label=f"{row['set']}, {row['labels']} labels" if first else None,
        )
        dots = [100 * value for group in row["accuracies"] for value in group]
        axes.plot([x] * len(dots), dots, ".", color="black", markersize=3)
    axes.set_xticks([i + (len(pairs) - 1) * width / 2 for i in range(len(names))], names)
    axes.set_ylabel("accuracy (%)", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure
