"""The benchmarks run, and what they say follows from what they measured. No time is asserted."""

import asyncio
import collections
import contextlib
import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import calling, core, document, enrolment, meter, page, recorder, series, sharing, topics  # noqa: E402
from benchmarks.core import OURS, Contest, Contestant, Found, Goal, Scale  # noqa: E402
from benchmarks.population import LENGTH, populate  # noqa: E402
from benchmarks.server import Server  # noqa: E402
from eventstore import Boundary, EventStore, Query  # noqa: E402
from eventstore.errors import LockTimeout  # noqa: E402


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def sample(rate, latency=()):
    return meter.Sample(100, 100 / rate, 0.1, 0.2, meter.percentiles(latency))


def contest_of(ours, theirs, goal):
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


def test_a_log_that_grows_is_measured_at_each_size(server, tmp_path):
    """Every work on every size; the smallest is its own measure; appends write ahead, loads do not append."""
    done = run("growth", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "benchmarks.json").read_text())
    found = {one["key"]: one for one in made["results"] if one["kind"] == "series"}
    logs = [one for one in made["results"] if one["kind"] == "gauge"]
    assert {"growth.load", "growth.random", "growth.hot", "growth.new"} <= found.keys()
    for one in found.values():
        assert one["rows"] == {"1k": 1_000, "3k": 3_000}
        assert one["ratios"]["1k"] == [1.0] and one["ratios"]["3k"][0] > 0
        assert all(samples[0]["count"] > 0 for samples in one["logs"].values())
        assert (one["written"]["3k"][0] > 0) == (one["key"] != "growth.load")
    assert [one["key"] for one in logs] == ["growth.log.1k", "growth.log.3k"]
    assert logs[0]["values"]["key index"][0] < logs[1]["values"]["key index"][0]
    assert "| append to random streams, 32 callers | 3k |" in (tmp_path / "benchmarks.md").read_text()


def test_processes_that_append_together_are_counted_together(server, tmp_path):
    """Two contests and a gauge of writers in processes of their own; nobody has done more than his share at the slowest."""
    done = run("processes.2", "hot.processes", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    contest, gauge = json.loads((tmp_path / "benchmarks.json").read_text())["results"]
    (ours,) = contest["contestants"][OURS]
    assert ours["count"] > 0 and ours["latency_ms"]["p50"] <= ours["latency_ms"]["max"]
    assert gauge["values"]["events/s"][0] > 0
    assert 0 < gauge["values"]["slowest, % of its share"][0] <= 100


def test_writers_of_one_stream_meet_conflicts_only_where_they_expect_a_version(server, tmp_path):
    """Sixty-four that load before any has appended expect the same version; with ANY there is nothing to refuse."""
    done = run("hot.any", "hot.exact", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    whatever, exact = json.loads((tmp_path / "benchmarks.json").read_text())["results"]
    assert whatever["values"]["conflicts a success"] == [0]
    assert exact["values"]["conflicts a success"][0] > 0
    assert exact["values"]["events/s"][0] > 0


def test_appends_in_transactions_are_measured_beside_bare_ones(server, tmp_path):
    """The store's own transaction and a SQLAlchemy session; there is no goal."""
    done = run("joined", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    own, session = json.loads((tmp_path / "benchmarks.json").read_text())["results"]
    assert list(own["ratios"]) == ["asyncpg"]
    assert list(session["ratios"]) == ["asyncpg", "the session's own INSERT"]
    assert own["goals"] == session["goals"] == []


def test_decisions_are_measured_beside_the_peer_and_each_says_how_often_it_began_anew(server, tmp_path):
    """Both sides decide in the same way; the check and the appends without tags have themselves to compare with."""
    wanted = ("boundary.8", "boundary.check", "boundary.plain")
    done = run(*wanted, "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "benchmarks.json").read_text())
    found = {one["key"]: one["contestants"] for one in made["results"]}
    assert list(found["boundary.8"]) == [OURS, "eventsourcing", "asyncpg, unguarded"]
    for name, (one,) in found["boundary.8"].items():
        assert one["count"] > 0
        assert ("retries" in one) == (name != "asyncpg, unguarded")
    assert list(found["boundary.check"]) == [OURS, "on a tag of 10"]
    assert list(found["boundary.plain"]) == [OURS, "one that does not"]
    assert not any("retries" in one for (one,) in found["boundary.plain"].values())
    assert "### Begun anew after a conflict" in (tmp_path / "benchmarks.md").read_text()


def test_decisions_conflict_only_where_one_matters_to_another(server, tmp_path):
    """Eight clients on one tag: what each asks for besides keeps them apart, or does not."""
    done = run("boundary.items.8", "boundary.same.8", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    items, same = (one["values"] for one in json.loads((tmp_path / "benchmarks.json").read_text())["results"])
    assert items["decisions/s"][0] > 0
    assert items["conflicts a 1,000"] == [0]
    assert same["conflicts a 1,000"][0] > 0
    assert items["false conflicts a 1,000"] == same["false conflicts a 1,000"] == [0]


def test_a_conflict_is_false_if_the_decision_is_given_the_same_answer_again():
    """Whatever the library says of it; an attempt that was given up for a lock is no conflict."""
    answers = iter([[[1]], [[1], [1, 2], [1, 2], [1, 2, 3]]])

    async def decide(_query, decide, *, retries):
        given = next(answers)
        assert len(given) <= retries
        for positions in given:
            made = decide([SimpleNamespace(position=position) for position in positions])
        if len(given) == 1:
            raise LockTimeout("somebody held a tag")
        return made

    counts = collections.Counter()
    asyncio.run(sharing.decided(SimpleNamespace(decide=decide), Query(tags=["a"]), {"s": None}, counts))

    assert counts == {"time-outs": 1, "conflicts": 3, "false conflicts": 1}


def test_both_sides_decide_over_the_same_log(server):
    """As many events with the same types, tags and data; and each side reads the same of a course and a student."""

    async def look(theirs):
        async with theirs.arena() as arena:
            log = await asyncio.to_thread(recorder.TaggedRecorder, arena.dsn, 1)
            for _ in range(2):  # the second finds it done
                await enrolment.fill(arena.bare, 2_000)
                await enrolment.fill_recorder(arena.bare, 2_000)
            ours = await arena.bare.fetch("select type, tags, data::text from eventstore.events order by position")
            peers = await arena.bare.fetch(
                "select type, tags, convert_from(data, 'UTF8') from dcb_events_tt_main order by id"
            )
            async with EventStore(arena.dsn, events=[enrolment.Enrolled]) as store:
                decision = await Boundary(store).read(Query(tags=["course:7"]) | Query(tags=["student:8"]))
            seen = []

            def decide(datas):
                seen.extend(datas)
                return "Enrolled", b"{}", ["course:7"]

            await asyncio.to_thread(log.decide, ["course:7", "student:8"], decide)
            await asyncio.to_thread(log.close)
        return ours, peers, [recorded.data for recorded in decision.events], [enrolment.validate(data) for data in seen]

    with Server(server) as theirs:
        ours, peers, read, seen = asyncio.run(look(theirs))

    assert len(ours) == 2_000 and [tuple(row) for row in ours] == [tuple(row) for row in peers]
    assert [(one.course_id, one.student_id) for one in read] == [("7", "7"), ("8", "8"), ("7", "1007")]
    assert read == seen


def test_works_that_are_measured_at_once_have_the_same_time_in_slices_and_count_on():
    """Callers begin a slice where they ended the one before; the one that does more in its time has the higher rate."""
    asked, running = collections.defaultdict(list), set()

    def work(name, seconds):
        async def call(caller, n):
            running.add(name)
            await asyncio.sleep(seconds)
            assert running == {name}, "one at a time"
            running.clear()
            asked[name, caller].append(n)

        return call

    works = {"fast": work("fast", 0.004), "slow": work("slow", 0.02)}
    found = asyncio.run(calling.in_slices(meter.Meter, 1, 0.3, works))

    assert list(found) == ["fast", "slow"]
    for name, one in found.items():
        assert asked[name, 0] == list(range(len(asked[name, 0])))
        assert 0 < one.count < len(asked[name, 0]), "what leads in is not counted"
        assert one.seconds >= 3 * calling.SLICE_SECONDS and one.latency_ms["p50"] > 0
    assert found["fast"].rate > found["slow"].rate


def test_a_contest_that_is_measured_at_once_gives_a_sample_a_round_to_each():
    """After one that is thrown away, with a checkpoint before each."""
    calls = []

    class Arena:
        server = None

        async def settle(self):
            calls.append("settle")

    class Server:
        @contextlib.asynccontextmanager
        async def arena(self):
            yield Arena()

    async def at_once(_arena, size):
        calls.append(size)
        return {OURS: sample(20 * size), "peer": sample(10)}

    contest = Contest("t", "t.1", "a title", (Contestant(OURS, None), Contestant("peer", None)), 2, 1, at_once=at_once)
    (found,) = asyncio.run(core.run_contests(Server(), [contest], 2))

    assert calls == ["settle", 1, "settle", 2] * 2
    assert core.ratios(found, "peer") == [4, 4]


def test_a_template_is_cloned_with_what_it_was_filled_with_and_dropped_in_the_end(server):
    """Each clone begins anew, and nothing is left on a server that is not ours."""
    fill = functools.partial(populate, rows=2 * LENGTH)

    async def use(theirs):
        name = await theirs.template(fill)
        counts = []
        for _ in range(2):
            async with theirs.arena(name) as arena:
                counts.append(await arena.bare.fetchval("select count(*) from eventstore.events"))
                await arena.bare.execute(
                    "insert into eventstore.events (stream_id, version, type, event_id, data) "
                    "values ('a', 1, 't', gen_random_uuid(), '{}')"
                )
        return name, counts

    with Server(server) as theirs:
        name, counts = asyncio.run(use(theirs))

    assert counts == [2 * LENGTH] * 2
    assert asyncio.run(Server(server).execute(f"select count(*) from pg_database where datname = '{name}'")) == 0


def test_a_series_is_judged_on_the_log_that_its_goal_names():
    """Ratios are formed round by round against the smallest log."""
    one = series.Series("s", "s.1", "a title", None, (100_000, 20_000_000), None, 1, 1, "appends/s", 0, (Goal("20M", 0.9),))
    samples = {100_000: [sample(10), sample(20), sample(40)], 20_000_000: [sample(8), sample(16), sample(38)]}
    made = document.of([series.FoundSeries(one, samples, {rows: [1.0] * 3 for rows in samples})], {}, "make bench", 3, [])

    (result,) = made["results"]
    assert result["ratios"] == {"100k": [1, 1, 1], "20M": [0.8, 0.8, 0.95]}
    assert page.summary(made)[1] == "Missed: a title: 0.80 of 100k rows, at 20M, goal 0.9."
    assert [row[-1] for _, _, rows in page.tables(made) for row in rows] == ["", "MISSED"]


def test_what_cannot_be_measured_on_a_server_is_left_out_with_a_note(server, tmp_path):
    """The server of the tests keeps no commit timestamps, and is not ours to start again."""
    done = run("visible.same.100", "--quick", "--rounds", "1", f"--url={server}", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "left out, since the server has track_commit_timestamp off" in done.stdout


def test_a_topic_that_does_not_exist_is_refused_by_name():
    """Before a server is started."""
    done = run("apend", "--quick")

    assert done.returncode != 0
    assert "nothing is called apend; there are append, processes" in done.stderr


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
    made = document.of([contest_of(ours, [10, 10, 10], goal)], {}, "make bench", 3, [])

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
    assert core.ratios(contest_of([10, 20, 40], [40, 20, 10], Goal("peer", 1)), "peer") == pytest.approx([0.25, 1, 4])


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
    """Section 10; growth to 20M rows only where all is asked for."""
    goals = {one.key: [(goal.what, goal.bound) for goal in one.goals] for one in topics.every(Scale())}

    assert goals["append.1"] == [("asyncpg", 0.9)]
    assert goals["append.32"] == [("eventsourcing", 20), ("pgbench", 1.5)]
    assert goals["append.256"] == [("eventsourcing", 28), ("pgbench", 2)]
    assert [goals[key][0][1] for key in ("batch", "import", "read", "project")] == [0.8, 0.85, 0.8, 0.6]
    assert goals["visible.same.1000"] == goals["visible.apart.1000"] == [("p50", 3), ("p99", 10)]
    assert goals["memory.read"] == goals["memory.project"] == [("growth", 8)]
    assert [goals[f"boundary.{clients}"] for clients in (1, 8)] == [[("eventsourcing", 5)], [("eventsourcing", 15)]]
    assert goals["boundary.check"] == [("on a tag of 10", 0.67)]  # 1.5 times as long at most
    assert goals["boundary.plain"] == [("one that does not", 0.98)]
    full = {one.key: [(goal.what, goal.bound) for goal in one.goals] for one in topics.every(Scale(full=True))}
    assert (goals["growth.random"], full["growth.random"]) == ([], [("20M", 0.9)])


def test_no_goal_waits_for_anything_that_is_built():
    """Group commit was the last that goals waited for."""
    assert [goal for one in topics.every(Scale(full=True)) for goal in one.goals if goal.due] == []
