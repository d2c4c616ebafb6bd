"""Shows a document: on the console, and as a page with JSON and a plot beside it."""

import importlib.util
import json
import statistics

from . import document, plot
from .core import OURS, Scale, say, spread
from .topics import every

BEGIN = "<!-- measured: begin (written by `make bench ARGS=--write`, not by hand) -->"
END = "<!-- measured: end -->"
GAUGE_TITLES = {
    "hot": "Writers that share streams",
    "boundary": "Decisions that share tags",
    "visible": "Commit to visible in the read model",
    "memory": "Memory of a follower",
    "growth": "The logs that grow",
}
GOALS_PLOT, GROWTH_PLOT = "benchmarks.png", "growth.png"
PLOTS = {
    GOALS_PLOT: "What was reached, as a share of each goal",
    GROWTH_PLOT: "Rates on growing logs, as shares of the rate on the smallest",
}
NOTHING = "\nNot yet measured.\n"


def console(made):
    """Everything as text."""
    parts = []
    for title, header, rows in tables(made):
        parts += [title, *aligned([header, *rows]), ""]
    parts += [f"note: {note}" for run in made["runs"] for note in run["notes"]]
    return "\n".join([*parts, *summary(made)])


def write(folder, made):
    """Write benchmarks.json, the plots and, between its markers, benchmarks.md; keep there what is not measured now."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "benchmarks.json"
    if file.exists():
        made = document.merged(json.loads(file.read_text()), made, [one.key for one in every(Scale())])
    file.write_text(json.dumps(made, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot.draw(made, folder / GOALS_PLOT)
        plot.draw_growth(made, folder / GROWTH_PLOT)
    else:
        say("no plot: the package matplotlib is not installed (`make bench` installs it)")
    plots = [(caption, name) for name, caption in PLOTS.items() if (folder / name).exists()]
    text = folder / "benchmarks.md"
    before = text.read_text() if text.exists() else f"# Benchmarks\n\n{BEGIN}{NOTHING}{END}\n"
    text.write_text(between(before, markdown(made, plots)))


def between(text, measured):
    """`text` with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has lost its markers: {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{measured}\n{END}{tail}"


def markdown(made, plots):
    """The generated part of the page."""
    parts = ["", *(f"{line}\n" for line in summary(made))]
    for caption, name in plots:
        parts += [f"![{caption}]({name})", ""]
    for title, header, rows in tables(made):
        parts += [f"### {title}", "", _row(header), _row("---" for _ in header), *map(_row, rows), ""]
    return "\n".join([*parts, *runs(made)])


def summary(made):
    """In one line each: how many goals are met, which are missed, which are due later."""
    goals = [(result, goal) for result in made["results"] for goal in result["goals"]]
    met = [one for one in goals if one[1]["met"]]
    missed = [_named(*one) for one in goals if not one[1]["met"] and not one[1]["due"]]
    later = [_named(*one) for one in goals if not one[1]["met"] and one[1]["due"]]
    lines = [f"{len(met)} of {len(goals)} goals are met."]
    lines += [f"Missed: {'; '.join(missed)}."] if missed else []
    lines += [f"Due later: {'; '.join(later)}."] if later else []
    return lines


def tables(made):
    """(title, header, rows) of each table that has rows."""
    contests = [result for result in made["results"] if result["kind"] == "contest"]
    series = [result for result in made["results"] if result["kind"] == "series"]
    gauges = [result for result in made["results"] if result["kind"] == "gauge"]
    found = (
        (
            "Against the floors",
            ["what", "ours", "against", "theirs", "unit", "ratio", "spread", "goal", ""],
            [row for one in contests for row in _ratios(one)],
        ),
        (
            "On growing logs",
            [
                "what",
                "rows",
                "rate",
                "unit",
                "ratio",
                "spread",
                "p50, ms",
                "p99, ms",
                "bytes written ahead an event",
                "goal",
                "",
            ],
            [row for one in series for row in _growth(one)],
        ),
        *(_gauges(topic, [one for one in gauges if one["topic"] == topic]) for topic in GAUGE_TITLES),
        (
            "Latency of single calls, ms",
            ["what", "who", "p50", "p90", "p99", "max"],
            [row for one in contests for row in _latencies(one)],
        ),
        (
            "Begun anew after a conflict, times a call",
            ["what", "who", "times"],
            [row for one in contests for row in _retries(one)],
        ),
        (
            "CPU, µs an event",
            ["what", "who", "client", "server", "together"],
            [row for one in contests for row in _cpu(one)],
        ),
    )
    return [one for one in found if one[2]]


def runs(made):
    """Where the figures come from."""
    lines = ["### Where and how", ""]
    for number, run in enumerate(made["runs"]):
        topics = dict.fromkeys(result["topic"] for result in made["results"] if result["run"] == number)
        lines += [f"{', '.join(topics)}: `{run['command']}`, {run['rounds']} rounds, on {run['date']}.", ""]
        lines += [_row(("", "")), _row(("---", "---")), *(_row((name, value)) for name, value in run["machine"].items()), ""]
        lines += [f"- {note}" for note in run["notes"]] + ([""] if run["notes"] else [])
    return lines


def aligned(rows):
    """Rows as lines of columns."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _ratios(result):
    ours = statistics.median(one["rate"] for one in result["contestants"][OURS])
    goals = {goal["what"]: goal for goal in result["goals"]}
    for name, values in result["ratios"].items():
        median, low, high = spread(values)
        theirs = statistics.median(one["rate"] for one in result["contestants"][name])
        goal = goals.get(name)
        yield [
            result["title"],
            f"{ours:,.0f}",
            name,
            f"{theirs:,.0f}",
            result["unit"],
            f"{median:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{goal['bound']:g}" if goal else "",
            document.verdict(goal) if goal else "",
        ]


def _growth(result):
    goals = {goal["log"]: goal for goal in result["goals"]}
    for log, samples in result["logs"].items():
        median, low, high = spread(result["ratios"][log])
        latency, goal = document.median_latency(samples), goals.get(log)
        yield [
            result["title"],
            log,
            f"{statistics.median(one['rate'] for one in samples):,.0f}",
            result["unit"],
            f"{median:.2f}",
            f"{low:.2f} to {high:.2f}",
            *(f"{latency[name]:.2f}" if latency else "" for name in ("p50", "p99")),
            f"{statistics.median(result['written'][log]):,.0f}",
            f"{goal['bound']:g}" if goal else "",
            document.verdict(goal) if goal else "",
        ]


def _gauges(topic, results):
    """A table of one topic's gauges, which have the same values: a row each."""
    unit = results[0]["unit"] if results else ""
    names = list(results[0]["values"]) if results else []
    rows = [[one["title"], *map(_with_spread, one["values"].values()), _bounds(one["goals"])] for one in results]
    return f"{GAUGE_TITLES[topic]}, {unit}", ["what", *names, "goals"], rows


def _with_spread(values):
    median, low, high = spread(values)
    return f"{median:.1f}" if len(values) == 1 else f"{median:.1f} ({low:.1f} to {high:.1f})"


def _bounds(goals):
    return "; ".join(f"{goal['what']} at most {goal['bound']:g}: {document.verdict(goal)}" for goal in goals)


def _latencies(result):
    for name, rounds in result["contestants"].items():
        latency = document.median_latency(rounds)
        if latency:
            yield [result["title"], name, *(f"{value:.2f}" for value in latency.values())]


def _retries(result):
    for name, rounds in result["contestants"].items():
        retries = [one["retries"] for one in rounds if "retries" in one]
        if retries:
            yield [result["title"], name, f"{statistics.median(retries):.4f}"]


def _cpu(result):
    for name, rounds in result["contestants"].items():
        client, server = (_median([one[side] for one in rounds]) for side in ("client_us", "server_us"))
        together = None if client is None or server is None else client + server
        yield [result["title"], name, *("-" if value is None else f"{value:.1f}" for value in (client, server, together))]


def _median(values):
    return None if None in values else statistics.median(values)


def _named(result, goal):
    if goal["at_least"]:
        return f"{result['title']}: {goal['median']:.2f} of {goal['what']}, goal {goal['bound']:g}"
    void = f" ({goal['without']})" if goal["without"] else ""
    return f"{result['title']}: {goal['what']} {goal['median']:.1f} {result['unit']}, goal at most {goal['bound']:g}{void}"


def _row(cells):
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
