"""Two pictures: what was reached of each goal, and how rates change as the log grows; with the spread of the rounds."""

from .core import spread

DONE, MISSED, LATER = "#2f6f4f", "#b03a2e", "#9a9a9a"
WIDTH_INCHES, ROW_INCHES, GROWTH_INCHES, DPI = 9.0, 0.36, 4.5, 110
LONGEST = 2.5
"""Where the axis ends: what lies beyond is said by its figure."""


def draw(made, file):
    """Draw the goals of a document into a PNG; nothing where there are none."""
    pyplot = _pyplot()
    rows = [(result, goal) for result in made["results"] for goal in result["goals"]]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, ROW_INCHES * len(rows) + 1.0), dpi=DPI)
    for place, (result, goal) in enumerate(rows):
        share, low, high = shares(goal)
        shown = min(share, LONGEST)
        axes.barh(place, shown, height=0.62, color=_colour(goal))
        axes.plot([min(low, LONGEST), min(high, LONGEST)], [place, place], color="black", linewidth=1.2)
        axes.text(
            max(shown, min(high, LONGEST)) + 0.04,
            place,
            label(result, goal),
            va="center",
            fontsize=8,
            backgroundcolor="white",
        )
    axes.axvline(1.0, color="black", linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_yticks(
        range(len(rows)),
        [
            f"{result['title']}\nagainst {goal['what']}" if goal["at_least"] else f"{result['title']}\n{goal['what']}"
            for result, goal in rows
        ],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, LONGEST + 0.9)
    axes.set_xlabel("share of the goal that was reached (dashed: the goal); lines: smallest to largest round", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _save(pyplot, figure, file)


def draw_growth(made, file):
    """Draw the series of a document into a PNG; nothing where there are none."""
    series = [result for result in made["results"] if result["kind"] == "series"]
    if not series:
        return
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, GROWTH_INCHES), dpi=DPI)
    for result in series:
        points = [spread(result["ratios"][log]) for log in result["rows"]]
        errors = [[m - low for m, low, _ in points], [high - m for m, _, high in points]]
        axes.errorbar(
            list(result["rows"].values()),
            [m for m, _, _ in points],
            yerr=errors,
            marker="o",
            capsize=3,
            linewidth=1.4,
            label=result["title"],
        )
    for bound in sorted({goal["bound"] for result in series for goal in result["goals"]}):
        axes.axhline(bound, color="black", linewidth=1.0, linestyle=(0, (4, 3)))
    rows = {count: log for result in series for log, count in result["rows"].items()}
    axes.set_xscale("log")
    axes.set_xticks(list(rows), list(rows.values()), minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows of the log", fontsize=8)
    axes.set_ylabel("rate, as a share of that on the smallest log", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="lower left")
    _save(pyplot, figure, file)


def shares(goal):
    """Median, low and high as shares of the goal; above 1 is good, whichever way the goal goes."""
    values = [goal["median"], goal["low"], goal["high"]]
    if goal["at_least"]:
        return [value / goal["bound"] for value in values]
    return [goal["bound"] / value if value > 0 else LONGEST for value in values]


def label(result, goal):
    """The figure beside a bar."""
    if goal["at_least"]:
        text = f"{goal['median']:.2f}x, goal {goal['bound']:g}x"
    else:
        text = f"{goal['median']:.1f} {result['unit']}, goal at most {goal['bound']:g}"
    return text + (f" (due with {goal['due']})" if goal["due"] and not goal["met"] else "")


def _pyplot():
    import matplotlib  # noqa: PLC0415 - may not be installed

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    return pyplot


def _save(pyplot, figure, file):
    figure.tight_layout()
    figure.savefig(file, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


def _colour(goal):
    if goal["met"]:
        return DONE
    return LATER if goal["due"] else MISSED
