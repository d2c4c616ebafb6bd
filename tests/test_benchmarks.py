"""The benchmarks run, and what they say follows from what they measured. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import core, document, meter, page, topics  # noqa: E402
from benchmarks.core import OURS, Contest, Contestant, Found, Goal, Scale  # noqa: E402


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def sample(rate, latency=()):
    return meter.Sample(100, 100 / rate, 0.1, 0.2, meter.percentiles(latency))


def found(ours, theirs, goal):
    contest = Contest("t", "t.1", "a title", (Contestant(OURS, None), Contestant("peer", None)), 1, 1, goals=(goal,))
    return Found(contest, {OURS: [sample(rate, [1, 2]) for rate in ours], "peer": [sample(rate) for rate in theirs]})


def test_a_quick_run_shows_every_contestant_or_says_why_not(server, tmp_path):
    """From the command to the page: two topics on a server that is given, whose address is written nowhere."""
    done = run("append.8", "batch", "--quick", "--rounds", "2", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "benchmarks.json").read_text())
    append, batch = made["results"]
    (ran,) = made["runs"]
    for name in ("pgbench", "eventsourcing"):
        assert name in append["contestants"] or any(name in note for note in ran["notes"])
    assert all(len(rounds) == 2 for rounds in append["contestants"].values())
    assert all(one["count"] > 0 and one["latency_ms"]["p99"] > 0 for one in append["contestants"]["asyncpg"])
    assert batch["goals"][0]["what"] == "unnest"
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| a thousand events an append |" in text
    for shown in (text, json.dumps(made), done.stdout):
        assert server not in shown and str(tmp_path) not in shown and str(ROOT) not in shown


def test_what_cannot_be_measured_on_a_server_is_left_out_with_a_note(server, tmp_path):
    """The server of the tests keeps no commit timestamps, and is not ours to start again."""
    done = run("visible.same.100", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "left out, since the server has track_commit_timestamp off" in done.stdout


def test_a_topic_that_does_not_exist_is_refused_by_name():
    """Before a server is started."""
    done = run("apend", "--quick")

    assert done.returncode != 0
    assert "nothing is called apend; there are append, batch" in done.stderr


@pytest.mark.parametrize(
    ("ours", "goal", "said"),
    [
        ([20, 21, 22], Goal("peer", 2), "met"),
        ([15, 21, 22], Goal("peer", 2), "met, not in every round"),
        ([10, 10, 30], Goal("peer", 2), "MISSED"),
        ([10, 10, 30], Goal("peer", 2, "a later step"), "due with a later step"),
    ],
)
def test_a_goal_is_judged_by_the_median_of_the_rounds_ratios(ours, goal, said):
    """And what misses is named in the summary, what is due later apart from it."""
    made = document.of([found(ours, [10, 10, 10], goal)], {}, "make bench", 3, [])

    (result,) = made["results"]
    assert document.verdict(result["goals"][0]) == said
    assert any(line.startswith("Missed: a title") for line in page.summary(made)) == (said == "MISSED")
    assert any(line.startswith("Due later: a title") for line in page.summary(made)) == said.startswith("due")


def test_a_gauge_whose_load_was_not_there_meets_no_goal():
    """Delays at a thousand events a second say nothing where only six hundred were appended."""
    gauge = core.Gauge("g", "g.1", "a title", None, "ms", goals=(Goal("p50", 3),), only_with=("rate kept, %", 98))

    for kept, said in ((99.0, "met"), (60.0, "not shown: rate kept, % 60, at least 98 is needed")):
        made = document.of([Found(gauge, values=[{"p50": 2.0, "rate kept, %": kept}])], {}, "make bench", 1, [])
        assert document.verdict(made["results"][0]["goals"][0]) == said
        assert any(line.startswith("Missed") for line in page.summary(made)) == (kept < 98)


def test_ratios_are_formed_round_by_round():
    """A slow round is slow for both: a ratio of medians would be 1 here."""
    assert core.ratios(found([10, 20, 40], [40, 20, 10], Goal("peer", 1)), "peer") == pytest.approx([0.25, 1, 4])


def test_rounds_alternate_and_everybody_is_first_at_some_time():
    """Each round has everybody once, in the other direction than the round before."""
    orders = [core.in_turn("abc", number) for number in range(6)]

    assert all(sorted(order) == list("abc") for order in orders)
    assert all(orders[n] == orders[n - 1][::-1] for n in (1, 3, 5))
    assert {order[0] for order in orders} == set("abc")


def test_percentiles_are_values_that_were_measured():
    """Nearest rank; of one value every percentile is that."""
    assert meter.percentiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert set(meter.percentiles([7]).values()) == {7}
    assert meter.percentiles([]) == {}


def test_a_meter_counts_the_cpu_of_this_process():
    """Work that takes CPU shows, and the server is left out where it cannot be seen."""
    one = meter.Meter()
    while meter.client_cpu() - one._client < 0.05:
        sum(range(10_000))
    taken = one.stop(10)

    assert taken.client_seconds >= 0.05
    assert taken.as_json()["server_us"] is None


def test_measuring_one_topic_again_keeps_the_others_with_their_run():
    """Each figure of the page stays with the machine and the command that it came from."""
    old = {
        "runs": [{"command": "first"}, {"command": "second"}],
        "results": [{"key": "append.1", "topic": "append", "run": 0}, {"key": "batch", "topic": "batch", "run": 1}],
    }
    new = {"runs": [{"command": "third"}], "results": [{"key": "append.1", "topic": "append", "run": 0}]}

    merged = document.merged(old, new, ["append.1", "batch"])

    assert [run["command"] for run in merged["runs"]] == ["second", "third"]
    assert [(one["key"], one["run"]) for one in merged["results"]] == [("append.1", 1), ("batch", 0)]


def test_only_what_stands_between_the_markers_is_replaced():
    """The prose around it is written by hand; a page without markers is not touched."""
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"

    assert page.between(text, "new") == f"before\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    with pytest.raises(ValueError, match="lost its markers"):
        page.between("before\nafter\n", "new")
    assert page.BEGIN in (ROOT / "docs" / "benchmarks.md").read_text()


def test_addresses_and_folders_are_not_repeated_in_the_command():
    """In either way of writing an option."""
    said = document.command(["read", "--url", "postgresql://u:secret@h/d", "--out=/home/me", "--rounds", "2"])

    assert said == 'make bench ARGS="read --url URL --out=FOLDER --rounds 2"'


def test_every_goal_of_the_design_that_can_be_measured_is_measured():
    """Section 10, but for the boundary (not built yet) and the growth to 20M rows (not built yet)."""
    goals = {one.key: [(goal.what, goal.bound) for goal in one.goals] for one in topics.every(Scale())}

    assert goals["append.1"] == [("asyncpg", 0.9)]
    assert goals["append.32"] == [("eventsourcing", 20), ("pgbench", 1.5)]
    assert goals["append.256"] == [("eventsourcing", 28), ("pgbench", 2)]
    assert [goals[key][0][1] for key in ("batch", "import", "read", "project")] == [0.8, 0.85, 0.8, 0.6]
    assert goals["visible.same.1000"] == goals["visible.apart.1000"] == [("p50", 3), ("p99", 10)]
    assert goals["memory.read"] == goals["memory.project"] == [("growth", 8)]
