"""What was found, as the document that is written as JSON and from which every table and plot is made.

It holds the runs (machine, command) and the results, each with the number of its run. So one topic can be measured again, or
on a day of its own, and the page says of every figure where it comes from.
"""

import datetime
import shlex
import statistics

from .core import OURS, Contest, ratios, spread
from .meter import PERCENTILES
from .series import FoundSeries, label, shares

SECRET = {"--url": "URL", "--out": "FOLDER"}
"""Options whose values stay out of what is written: addresses and folders are nobody's business."""


def of(found, about, command, rounds, notes):
    """The document of one run."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    run = {"command": command, "date": today, "rounds": rounds, "machine": about, "notes": list(notes)}
    return {"runs": [run], "results": [_result(one) for one in found]}


def merged(old, new, order):
    """`new`, and what `old` has that is not in it; in the order of keys given."""
    measured = {result["key"] for result in new["results"]}
    kept = [result for result in old["results"] if result["key"] not in measured]
    used = sorted({result["run"] for result in kept})
    results = [{**result, "run": used.index(result["run"])} for result in kept]
    results += [{**result, "run": len(used) + result["run"]} for result in new["results"]]
    results.sort(key=lambda result: order.index(result["key"]) if result["key"] in order else len(order))
    return {"runs": [*(old["runs"][number] for number in used), *new["runs"]], "results": results}


def command(arguments):
    """The command that measures the same again."""
    shown, before = [], ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if before in SECRET:
            shown.append(SECRET[before])
        elif equals and name in SECRET:
            shown.append(f"{name}={SECRET[name]}")
        else:
            shown.append(argument)
        before = argument
    return f'make bench ARGS="{shlex.join(shown)}"' if shown else "make bench"


def verdict(goal):
    """What to say of a goal: met, missed, or due later."""
    if goal["without"]:
        return f"not shown: {goal['without']}"
    if goal["met"]:
        return "met" if goal["always"] else "met, not in every round"
    return f"due with {goal['due']}" if goal["due"] else "MISSED"


def median_latency(rounds):
    """The medians over the rounds of each percentile; empty where calls were not timed."""
    timed = [one["latency_ms"] for one in rounds if one["latency_ms"]]
    return {name: statistics.median(one[name] for one in timed) for name in PERCENTILES} if timed else {}


def _result(found):
    if isinstance(found, FoundSeries):
        return _series(found)
    return _contest(found) if isinstance(found.of, Contest) else _gauge(found)


def _series(found):
    series = found.of
    by_label = {label(rows): rows for rows in series.rows}
    ratios = {name: shares(found, rows) for name, rows in by_label.items()}
    smallest = label(series.rows[0])
    goals = [_goal(goal, ratios[goal.what], at_least=True) for goal in series.goals]
    return {
        "kind": "series",
        "run": 0,
        "topic": series.topic,
        "key": series.key,
        "title": series.title,
        "unit": series.unit,
        "rows": by_label,
        "logs": {name: [one.as_json() for one in found.samples[rows]] for name, rows in by_label.items()},
        "written": {name: [round(value) for value in found.written[rows]] for name, rows in by_label.items()},
        "ratios": {name: [round(value, 4) for value in values] for name, values in ratios.items()},
        "goals": [goal | {"what": f"{smallest} rows, at {goal['what']}", "log": goal["what"]} for goal in goals],
    }


def _contest(found):
    contest = found.of
    others = {name: ratios(found, name) for name in found.samples if name != OURS}
    goals = [_goal(goal, others[goal.what], at_least=True) for goal in contest.goals if goal.what in others]
    return {
        "kind": "contest",
        "run": 0,
        "topic": contest.topic,
        "key": contest.key,
        "title": contest.title,
        "unit": contest.unit,
        "contestants": {name: [one.as_json() for one in samples] for name, samples in found.samples.items()},
        "ratios": {name: [round(value, 4) for value in values] for name, values in others.items()},
        "goals": goals,
    }


def _gauge(found):
    gauge = found.of
    values = {name: [one[name] for one in found.values] for name in found.values[0]}
    return {
        "kind": "gauge",
        "run": 0,
        "topic": gauge.topic,
        "key": gauge.key,
        "title": gauge.title,
        "unit": gauge.unit,
        "values": {name: [round(value, 4) for value in of_rounds] for name, of_rounds in values.items()},
        "goals": [_goal(goal, values[goal.what], at_least=False, without=_without(gauge, values)) for goal in gauge.goals],
    }


def _without(gauge, values):
    """What makes the gauge's goals void; empty: nothing."""
    name, least = gauge.only_with
    median = statistics.median(values[name]) if name else least
    return f"{name} {median:.0f}, at least {least:g} is needed" if median < least else ""


def _goal(goal, values, *, at_least, without=""):
    median, low, high = spread(values)
    reached = (lambda value: value >= goal.bound) if at_least else (lambda value: value <= goal.bound)
    return {
        "what": goal.what,
        "bound": goal.bound,
        "at_least": at_least,
        "due": goal.due,
        "without": without,
        "median": round(median, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "met": reached(median) and not without,
        "always": all(reached(value) for value in values),
    }
