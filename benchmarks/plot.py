"""One picture: what was reached of each goal, with the spread of the rounds."""

DONE, MISSED, LATER = "#2f6f4f", "#b03a2e", "#9a9a9a"
WIDTH_INCHES, ROW_INCHES, DPI = 9.0, 0.36, 110
LONGEST = 2.5
"""Where the axis ends: what lies beyond is said by its figure."""


def draw(made, file):
    """Draw the goals of a document into a PNG; nothing where there are none."""
    import matplotlib  # noqa: PLC0415 - may not be installed

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

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
    figure.tight_layout()
    figure.savefig(file, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


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


def _colour(goal):
    if goal["met"]:
        return DONE
    return LATER if goal["due"] else MISSED
