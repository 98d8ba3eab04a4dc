"""Draws the figures of a run of the benches: bars with the spread of the rounds, lines over a logarithmic axis."""

import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
# The same file from the same figures, with text as text.
matplotlib.rcParams.update({"svg.hashsalt": "leasehold", "svg.fonttype": "none", "font.family": "sans-serif"})
import matplotlib.pyplot as plt

FILE = Path(sys.argv[1])
FIGURES = [line for line in map(json.loads, FILE.read_text().splitlines()) if "figure" in line]
BY_NAME = {(figure["section"], figure["figure"], figure["against"]): figure for figure in FIGURES}


def save(name, figure, axes, title, unit):
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    path = FILE.with_name(f"{name}.svg")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    # No white space at the ends of lines.
    path.write_text(re.sub(r" +$", "", path.read_text(), flags=re.MULTILINE))
    plt.close(figure)


def bars(name, title, unit, rows):
    """Bars of ratios, the first one at the top, each with its least and most."""
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.4 * len(rows)))
    ratios = [row["ratio"] for _, row in rows]
    spread = [[row["ratio"] - row["least"] for _, row in rows], [row["most"] - row["ratio"] for _, row in rows]]
    axes.barh([label for label, _ in rows], ratios, xerr=spread, error_kw={"capsize": 3})
    for at, (_, row) in enumerate(rows):
        axes.annotate(f"{row['ratio']:.2f}", (row["most"], at), xytext=(5, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(axis="x")
    save(name, figure, axes, title, unit)


def lines(name, title, unit, rows):
    """A line for each label through points (x, y)."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    for label in dict.fromkeys(label for label, _, _ in rows):
        points = [(x, y) for other, x, y in rows if other == label]
        axes.plot(*zip(*points), marker="o", label=label)
    axes.set_xscale("log", base=10 if rows[-1][1] > 10_000 else 4)
    ticks = sorted({x for _, x, _ in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.1 * max(y for _, _, y in rows))
    axes.grid()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_ylabel(unit[1])
    save(name, figure, axes, title, unit[0])


def matches(pattern):
    """The figures of section g whose names match: the name of the series, the number, and the figure."""
    found = ((re.fullmatch(pattern, figure["figure"]), figure) for figure in FIGURES if figure["section"] == "g")
    return [(match[1], int(match[2].replace(",", "")), figure) for match, figure in found if match]


empty = [figure for figure in FIGURES if figure["section"] == "a" and figure["against"] == "empty handler"]
if empty:
    bars(
        "throughput", "Cycles of acquire and release, 64 connections",
        "cycles/s, as a multiple of an axum handler that does nothing", [(row["figure"], row) for row in empty],
    )

etcd = BY_NAME.get(("e", "hand-overs/s, 256 waiters", "etcd (data in memory, JSON gateway)"))
if etcd:
    bars(
        "hand-over", "One lock from waiter to waiter, 256 waiters", "hand-overs/s, as a multiple of etcd's",
        [("Leasehold", etcd), ("etcd", {"ratio": 1, "least": 1, "most": 1})],
    )

held = matches(r"(.*) with ([\d,]+) held locks")
if held:
    lines(
        "held-locks", "Cycles of acquire and release beside held locks, 64 connections",
        ("held locks", "cycles/s, as a multiple of\nthose with 1,000 held locks"),
        [(label, number, figure["ratio"]) for label, number, figure in held],
    )

connections = matches(r"(.*), (\d+) connections")
if connections:
    single = next(row["measured"] for label, number, row in connections if (label, number) == ("empty handler", 1))
    lines(
        "connections", "Cycles of acquire and release by connections",
        ("connections", "cycles/s, as a multiple of one connection\nto a handler that does nothing"),
        [(label, number, figure["measured"] / single) for label, number, figure in connections],
    )
