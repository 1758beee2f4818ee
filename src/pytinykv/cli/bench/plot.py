"""The plot of a bench: a row for each operation, rates and latencies; linear axes, and the figures on the bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytinykv.cli.bench.workload import OperationKind

if TYPE_CHECKING:
    from pytinykv.cli.bench.report import Cell, Results

_TITLE_INCHES: Final = 0.7
"""The room above the panels."""
PLOT_SUFFIXES: Final = (".png", ".svg", ".pdf")
"""What the file of a plot may end in."""
_COLOURS: Final = ("#2563a8", "#d97b29", "#4b9e5f", "#8a5ea8")
"""Of the targets, in their order."""


def save_plot(results: Results, path: Path) -> None:
    """Save the plot. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [kind for kind in OperationKind if any(each is kind for each, _, _ in results.cells)]
    count = max(1, len(kinds))
    height = _TITLE_INCHES + 3.3 * count
    figure, rows = plt.subplots(count, 2, figsize=(11, height), squeeze=False)
    figure.suptitle(_title(results, kinds), y=1 - 0.1 / height, va="top")
    for (left, right), kind in zip(rows, kinds, strict=False):
        _draw(left, results, kind, f"{kind.value}: operations per second", lambda cell: [cell.rate])
        _draw(
            right,
            results,
            kind,
            f"{kind.value}: latency in ms, p50 and p99",
            lambda cell: cell.latencies.percentiles_ms(0.5, 0.99),
        )
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="upper right")
    figure.tight_layout(rect=(0, 0, 1, 1 - _TITLE_INCHES / height))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _title(results: Results, kinds: list[OperationKind]) -> str:
    cells = list(results.cells.values())
    rounds = max((len(cell.rounds) for cell in cells), default=0)
    sizes = sorted({cell.workload.value_bytes for cell in cells})
    values = f"values of {', '.join(map(str, sizes))} bytes" if sizes else "nothing measured"
    measured = f"{' and '.join(results.targets)}: {', '.join(kind.value for kind in kinds)}"
    return f"{measured}\n{values}, median of {rounds} round{'' if rounds == 1 else 's'}"


def _draw(panel: Any, results: Results, kind: OperationKind, label: str, heights: Any) -> None:
    """Draw a group of bars for each number in flight, one bar for each target; a second height is drawn pale behind."""
    depths = sorted({depth for each, depth, _ in results.cells if each is kind})
    targets = results.targets
    width = 0.8 / max(1, len(targets))
    for index, target in enumerate(targets):
        for at, depth in enumerate(depths):
            cell: Cell | None = results.cells.get((kind, depth, target))
            values = [] if cell is None else heights(cell)
            for number, value in reversed(list(enumerate(values))):
                bar = panel.bar(
                    at + index * width,
                    value,
                    width * 0.94,
                    label=target if at == 0 and number == 0 else None,
                    color=_COLOURS[index % len(_COLOURS)],
                    alpha=1.0 if number == 0 else 0.35,
                )
                panel.bar_label(bar, [_figure(value)], fontsize=8, padding=1)
    centre = width * (len(targets) - 1) / 2
    panel.set_xticks([at + centre for at in range(len(depths))], [str(depth) for depth in depths])
    panel.set_xlabel("operations in flight")
    panel.set_ylabel(label)
    panel.set_ylim(0, 1.12 * max((bar.get_height() for bar in panel.patches), default=1.0) or 1.0)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
