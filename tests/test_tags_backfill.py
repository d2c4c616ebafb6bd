"""Back-fill: old events get tags while everybody goes on, and no decision overlooks them."""

import asyncio
import json
import os
import signal
import uuid
from typing import Annotated

import asyncpg
import pytest
from conftest import run_sql
from pydantic import SecretStr
from test_cli import cli, start
from test_tags_bulk import ask, in_the_order_of_locks, line, positions, run, tag_rows

from eventstore import Boundary, Event, EventStore, NewEvent, Query, Tag, UnknownEvent, WakeUps, errors
from eventstore._operations import tagging as operations
from eventstore._operations.statement import Pause
from eventstore.tagging import backfill_tags

pytestmark = pytest.mark.server


class Enrolled(Event):
    course: Annotated[str, Tag("course")]
    student: Annotated[int | None, Tag("student")] = None


class Noted(Event):
    n: int


class Refused(Event):
    """It cannot be stored, so it has no tagger; but it declares a tag."""

    course: Annotated[str, Tag("course")]
    key: SecretStr = SecretStr("x")


def course(recorded):
    return [f"course:{recorded.data.course}"]


async def untagged(store, count=60, courses=3):
    """Events of before there were tags."""
    for n in range(0, count, 20):
        await store.append(
            f"c-{n}",
            [UnknownEvent("Enrolled", {"course": str(k % courses), "student": k}) for k in range(n, min(n + 20, count))],
        )


async def test_old_events_get_the_tags_that_their_class_declares(store):
    """Found by readers and decisions; the events stay as they are; again adds nothing."""
    await untagged(store)
    await store.append("n-1", Noted(n=1))
    before = [(r.position, r.tags, r.data) async for r in store.read_all()]
    told = []
    result = await backfill_tags(store, batch=25, on_progress=lambda now: told.append((now.events, now.position)))

    assert (result.events, result.added, result.present, result.settled) == (60, 120, 0, True)
    assert told == [(25, 25), (50, 50), (60, 60)]
    assert await positions(store, "course:1") == list(range(2, 61, 3))
    assert await positions(store, "course:1", "student:4") == [5]
    assert [r.position for r in (await Boundary(store).read(Query(tags=["course:1"], types=[Enrolled]))).events] == list(
        range(2, 61, 3)
    )
    assert [(r.position, r.tags, r.data) async for r in store.read_all()] == before
    again = await backfill_tags(store)
    assert (again.events, again.added, again.present) == (60, 0, 120)


async def test_only_what_is_missing_is_written(store):
    """Beside tags of the append; from and up to a position; of some types and categories."""
    await store.append("a-1", Enrolled(course="1", student=1))
    await untagged(store, 20)
    await store.append("b-1", [Noted(n=n) for n in range(5)])
    rows = await tag_rows(store)

    by_type = await backfill_tags(store, lambda r: ["x:1"], types=[Noted], after=22, upto=24)
    assert (by_type.events, by_type.added, by_type.position, by_type.settled) == (2, 2, 24, True)
    by_category = await backfill_tags(store, lambda r: ["x:2"], categories=["a"])
    assert (by_category.events, by_category.position) == (1, 1)
    all_of_them = await backfill_tags(store)
    assert (all_of_them.events, all_of_them.added, all_of_them.present) == (21, 40, 2)
    assert (await tag_rows(store))[:2] == rows
    assert await positions(store, "x:1") == [23, 24]


async def test_a_dry_run_counts_and_writes_nothing(store):
    """The same figures as the run."""
    await untagged(store)
    counted = await backfill_tags(store, dry_run=True)
    assert await tag_rows(store) == []
    assert counted == await backfill_tags(store)
    assert len(await tag_rows(store)) == 120


QUERIES = [
    Query(tags=["course:1"]),
    Query(tags=["course:1"], types=["Enrolled"]),
    Query(tags=["course:1", "own:1"]),
    Query(tags=["own:1", "course:1"]),
    Query(tags=["never:1"]) | Query(tags=["own:1", "course:1"], types=["Enrolled"]),
]


async def half_tagged(store):
    """An event with one tag from its append, and without the one that a back-fill gives it."""
    return await store.append(
        "c-1", NewEvent(UnknownEvent("Enrolled", {"course": "1"}), tags=["own:1"], event_id=uuid.uuid4())
    )


@pytest.mark.parametrize("query", QUERIES, ids=repr)
async def test_a_decision_read_before_a_back_fill_is_refused_after_it(store, query):
    """Also where an event matches only by a tag from its append and one from the back-fill together."""
    done = await half_tagged(store)
    decision = await Boundary(store).read(query)
    others = [
        await Boundary(store).read(Query(tags=tags, types=types))
        for tags, types in ((["course:2"], None), (["course:1"], ["Left"]), (["own:1"], None), (["own:1", "course:2"], None))
    ]
    await backfill_tags(store, course, types=["Enrolled"])

    with pytest.raises(errors.BoundaryConflict) as found:
        await decision.append("d-1", UnknownEvent("D", {}))
    assert found.value.position == done.position
    for other in others:
        await other.append("d-1", UnknownEvent("D", {}))
    again = await Boundary(store).read(query)
    assert [r.position for r in again.events] == [done.position]
    await again.append("d-1", UnknownEvent("D", {}))


@pytest.mark.parametrize("query", QUERIES, ids=repr)
async def test_a_decision_appended_during_a_back_fill_waits_for_it(store, monkeypatch, query):
    """It is refused then: the rows were there before it."""
    await half_tagged(store)
    decision = await Boundary(store).read(query)
    written = asyncio.Event()

    def add_and_linger(rows):
        count = yield from add(rows)
        written.set()
        yield Pause(0.5)
        return count

    add = operations.add
    monkeypatch.setattr(operations, "add", add_and_linger)
    filling = asyncio.create_task(backfill_tags(store, course, types=["Enrolled"]))
    await asyncio.wait_for(written.wait(), 10)
    with pytest.raises(errors.BoundaryConflict):
        await decision.append("d-1", UnknownEvent("D", {}))
    assert (await filling).added == 1


async def test_decisions_beside_back_fills_have_seen_all_that_was_before_them(database):
    """Each has seen exactly the rows of its tags with a lower seq than its own, two back-fills notwithstanding."""
    async with EventStore(database) as store, EventStore(database) as other:
        await untagged(store, 400, courses=2)
        found = []

        async def decide(worker):
            boundary = Boundary(store if worker % 2 else other)
            query = Query(tags=["course:0"]) if worker % 3 else Query(tags=["course:0"]) | Query(tags=["course:1"])
            for n in range(15):
                seen = []

                def once(events, n=n, seen=seen):
                    seen[:] = [r.position for r in events]
                    new = NewEvent(UnknownEvent("Enrolled", {"course": "0"}), tags=["course:0"])
                    return {f"w-{worker}-{n}": [new]}

                (done,) = (await boundary.decide(query, once, retries=400)).values()
                found.append((query, done.position, sorted(seen)))

        await asyncio.wait_for(
            asyncio.gather(
                *[decide(worker) for worker in range(6)],
                backfill_tags(store, course, batch=7, rate=400),
                backfill_tags(other, course, batch=11, rate=400),
            ),
            110,
        )

        rows = await ask(store, "select tag, seq, position from eventstore.event_tags")
        assert len(rows) == len({row[::2] for row in rows}) == 400 + 90
        for query, position, seen in found:
            (own,) = [seq for tag, seq, at in rows if at == position]
            asked = {"course:0"} if query == Query(tags=["course:0"]) else {"course:0", "course:1"}
            assert seen == sorted(at for tag, seq, at in rows if tag in asked and seq < own)
        assert len(found) == 90


async def test_a_back_fill_waits_for_a_tag_that_somebody_holds_and_fails_nobody(store):
    """Others take the tags of its batch meanwhile, also the holder itself, in an order of its own."""
    await store.append("c-1", [UnknownEvent("T", {"n": n}) for n in range(40)])
    *own, last = await in_the_order_of_locks(store, 20)
    async with store.transaction() as tx:
        await tx.append("x-1", NewEvent(UnknownEvent("X", {}), tags=[last]))
        filling = asyncio.create_task(backfill_tags(store, lambda r: [own[r.version % 19], last], types=["T"]))
        await asyncio.sleep(1.5)  # longer than deadlock_timeout
        for n in range(5):
            decision = await Boundary(store).read(Query(tags=[own[n]]))
            await asyncio.wait_for(decision.append("y-1", NewEvent(UnknownEvent("Y", {}), tags=own)), 2.5)
        await tx.append("x-2", NewEvent(UnknownEvent("X", {}), tags=own))
        assert not filling.done()
    assert (await asyncio.wait_for(filling, 20)).added == 80

    async with store.transaction() as tx:
        await tx.append("x-1", NewEvent(UnknownEvent("X", {}), tags=["z:2"]))
        told = []
        with pytest.raises(errors.LockTimeout):
            await backfill_tags(
                store,
                lambda r: ["z:2"] if r.version > 20 else ["b:1"],
                types=["T"],
                batch=10,
                patience=0.3,
                on_progress=lambda now: told.append(now.position),
            )
    assert told == [10, 20]
    rest = await backfill_tags(store, lambda r: ["z:2"], types=["T"], after=20)
    assert (rest.events, rest.added) == (20, 20)


async def test_a_back_fill_goes_on_over_a_lost_connection_and_beside_another_one(database):
    """Every row once; two at once."""
    async with EventStore(database, application_name="cut") as store, EventStore(database) as other:
        await untagged(other, 400)
        running = [asyncio.create_task(backfill_tags(which, course, batch=10, rate=400)) for which in (store, other)]
        for _ in range(4):
            await asyncio.sleep(0.1)
            await ask(
                other,
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'cut %'"
                " and datname = current_database()",
            )
        one, two = await asyncio.wait_for(asyncio.gather(*running), 60)

        rows = await tag_rows(other)
        assert len(rows) == len(set(rows)) == 400
        assert one.events == two.events == 400
        assert one.added + one.present == two.added + two.present == 400


async def test_the_rate_is_kept(store):
    """As lower bound of the time: a quick machine must not be quicker."""
    await untagged(store, 40)
    begun, told = asyncio.get_running_loop().time(), []
    await backfill_tags(store, course, rate=50, batch=10, on_progress=lambda now: told.append(now.events))
    assert asyncio.get_running_loop().time() - begun >= 0.6
    assert told == [10, 20, 30, 40]
    await backfill_tags(store, course, rate=30, upto=33, on_progress=lambda now: told.append(now.events))
    assert told[4:] == [30, 33]  # a transaction is of a second's events at most
    await asyncio.wait_for(backfill_tags(store, course, rate=0.01, upto=1), 5)


async def test_a_transaction_has_no_more_tags_than_have_locks_of_their_own(store):
    """Else decisions over other tags would wait: those of an event stay together."""
    await store.append("c-1", [UnknownEvent("T", {"n": n}) for n in range(20)])
    told = []
    result = await backfill_tags(
        store,
        lambda r: [f"t:{r.version}:{n}" for n in range(60)],
        on_progress=lambda now: told.append(now.events),
    )
    assert told == [4, 8, 12, 16, 20]
    assert result.added == 1200


async def test_a_back_fill_stops_before_what_may_still_appear(store):
    """And says so; what was held is found from there on."""
    await untagged(store, 20)
    async with store.transaction() as tx:
        await tx.append("c-9", UnknownEvent("Enrolled", {"course": "9"}))
        await store.append("c-10", UnknownEvent("Enrolled", {"course": "9"}))
        result = await backfill_tags(store, course)
        assert (result.events, result.position, result.settled) == (20, 20, False)
    rest = await backfill_tags(store, course, after=result.position)
    assert (rest.events, rest.added, rest.settled) == (2, 2, True)


async def test_what_can_be_no_tag_is_named_with_its_event_and_stops_there(store):
    """Everything before it is done."""
    await store.append("c-1", [UnknownEvent("T", {"n": n}) for n in range(20)])
    told = []

    for wrong in (errors.InvalidArgument("no tag"), KeyError("course")):

        def tags_of(recorded, wrong=wrong):
            if recorded.version == 15:
                raise wrong
            return [f"t:{recorded.version}"]

        with pytest.raises(type(wrong)) as found:
            await backfill_tags(store, tags_of, batch=5, on_progress=lambda now: told.append(now.position))
        assert "position 15 (type 'T', version 15 of stream 'c-1')" in "".join(
            [str(found.value), *getattr(found.value, "__notes__", ())]
        )
    for tags in ("t:1", [7], ["x" * 256], None, [f"t:{n}" for n in range(101)]):
        with pytest.raises(errors.InvalidArgument, match=r"position 1 .*tag"):
            await backfill_tags(store, lambda recorded, tags=tags: tags)
    assert told == [5, 10, 5, 10]
    assert len(await tag_rows(store)) == 10


@pytest.mark.parametrize(
    "wrong", [{"after": -1}, {"upto": True}, {"rate": 0}, {"rate": -1.0}, {"batch": 0}, {"patience": -1}], ids=repr
)
async def test_arguments_out_of_their_range_are_refused(store, wrong):
    """Before anything is read."""
    with pytest.raises(errors.InvalidArgument, match=next(iter(wrong))):
        await backfill_tags(store, course, **wrong)


async def test_without_a_class_that_declares_tags_there_is_nothing_to_go_by(database):
    """It says so, in place of doing nothing."""
    async with EventStore(database, events=[Noted]) as store:
        with pytest.raises(errors.InvalidArgument, match="no registered class declares a tag"):
            await backfill_tags(store)
    async with EventStore(database, events=[Noted, Enrolled]) as store:
        assert (await backfill_tags(store)).settled is True


async def test_events_of_a_class_that_is_refused_are_not_passed_over(store):
    """Nobody can tell their tags."""
    await untagged(store, 5)
    await store.append("r-1", UnknownEvent("Refused", {"course": "1"}))
    with pytest.raises(errors.InvalidEvent, match="Refused"):
        await backfill_tags(store)
    assert (await backfill_tags(store, types=[Enrolled])).added == 10


async def test_a_follower_that_has_passed_an_event_does_not_see_it_again(store):
    """One that begins anew does."""
    await untagged(store, 6)
    async with store.subscribe(after=6, tags=["course:1"]) as live:
        await backfill_tags(store, course)
        await store.append("c-9", NewEvent(UnknownEvent("Enrolled", {"course": "1"}), tags=["course:1"]))
        assert (await asyncio.wait_for(anext(aiter(live)), 10)).position == 7
    assert await positions(store, "course:1") == [2, 5, 7]


@pytest.mark.parametrize(("given", "found"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
async def test_what_may_be_repeated_after_a_crash_waits_for_the_disk(store, given, found):
    """Else the same event could come back under the number that a decision has seen, and another one below it. Only there."""
    async with store._driver.acquire("transaction") as connection:
        await connection.raw.execute(f"set synchronous_commit = {given}")
        async with connection.transaction():
            await connection.run(operations.lock([("", "t:1")]))
            assert await connection.raw.fetchval("show synchronous_commit") == found
        assert await connection.raw.fetchval("show synchronous_commit") == given
        await connection.raw.execute("reset synchronous_commit")


async def test_a_pool_of_a_users_will_do(database):
    """Its connections may begin transactions at another isolation level."""
    settings = {"default_transaction_isolation": "repeatable read"}
    async with (
        asyncpg.create_pool(database, ssl=False, min_size=0, max_size=6, server_settings=settings) as pool,
        EventStore(pool, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store,
    ):
        await run(store, *[line(n, f"t:{n % 3}") for n in range(30)])
        both = await asyncio.gather(*[backfill_tags(store, lambda r: ["u:1", *r.tags], batch=7) for _ in range(2)])
        assert sum(one.added for one in both) == 30
        assert len(await tag_rows(store)) == 60


# -- on the command line


MODULE = """
from typing import Annotated

from eventstore import Event, Tag


class Enrolled(Event):
    course: Annotated[str, Tag("course")]
    student: Annotated[int, Tag("student")]
"""


def fill(url, count):
    lines = [
        {"stream_id": f"c-{n % 5}", "type": "Enrolled", "data": {"course": str(n % 3), "student": n}} for n in range(count)
    ]
    cli("import", "-", "--source", "x", url=url, stdin="".join(json.dumps(one) + "\n" for one in lines))


def rows_of(url):
    found = run_sql(
        url, "select coalesce(json_agg(array[tag, position::text] order by position, tag), '[]') from eventstore.event_tags"
    )
    return [(tag, int(position)) for tag, position in json.loads(found)]


def test_the_command_takes_classes_or_fields(database, tmp_path):
    """They say the same; a dry run first; repeated it adds nothing; readers find what it wrote."""
    fill(database, 30)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "events.py").write_text(MODULE)
    by_fields = ("--tag", "course=course", "--tag", "student=student")
    dry = json.loads(cli("tags", "backfill", *by_fields, "--dry-run", "--json", url=database))
    assert (dry["added"], dry["dry_run"], rows_of(database)) == (60, True, [])

    said = cli("tags", "backfill", "--module", "app.events", url=database, cwd=tmp_path)
    assert "60 tags added, 0 were there already: 30 events, up to position 30" in said
    wanted = sorted((tag, n + 1) for n in range(30) for tag in (f"course:{n % 3}", f"student:{n}"))
    assert sorted(rows_of(database)) == wanted
    again = json.loads(cli("tags", "backfill", *by_fields, "--after", "10", "--json", url=database))
    assert (again["events"], again["added"], again["present"], again["position"], again["settled"]) == (20, 0, 40, 30, True)
    found = [
        json.loads(one)
        for one in cli("read", "--tag", "course:1", "--tag", "student:4", "--json", url=database).splitlines()
    ]
    assert [(one["position"], one["tags"]) for one in found] == [(5, [])]


def test_a_field_may_lie_deeper_or_hold_several_values(database):
    """What is null or missing makes no tag; what can be none is named with its event."""
    for data in ({"a": {"b": [1, "x", None]}}, {"a": {"b": None}}, {"a": {}}, {"a": 7}, [1], None, {"a": {"b": "y"}}):
        cli("append", "s-1", "T", json.dumps(data), url=database)
    cli("tags", "backfill", "--tag", "t=a.b", "--tag", "u=a.b", "--upto", "6", url=database)
    assert rows_of(database) == [("t:1", 1), ("t:x", 1), ("u:1", 1), ("u:x", 1)]

    cli("append", "s-1", "T", '{"a": {"b": 1.5}}', url=database)
    said = cli("tags", "backfill", "--tag", "t=a.b", url=database, code=2)
    assert "position 8 (type 'T', version 8 of stream 's-1'): the tag 't' needs a str, an int" in said


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "give either --module"),
        (["--module", "x", "--tag", "a=b"], "give either --module"),
        (["--tag", "course"], "like course=course_id"),
        (["--tag", "=x"], "like course=course_id"),
        (["--tag", "a:b=x"], "like course=course_id"),
        (["--tag", "a=x..y"], "like course=course_id"),
        (["--module", "no_such_module_here"], "no module 'no_such_module_here'"),
        (["--module", "json"], "no registered class declares a tag"),
        (["--tag", "a=b", "--rate", "0"], "--rate"),
    ],
)
def test_wrong_use_is_one_line(database, args, why):
    """Exit code 2; no word of where to go on, since nothing was done."""
    said = cli("tags", "backfill", *args, url=database, code=2)
    assert why in said
    assert "--after" not in said


def test_a_command_that_is_stopped_or_killed_is_finished_by_running_it_again(database):
    """Stopped, it says where to go on; killed, it is found out."""
    fill(database, 300)
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = len(rows_of(database))
        with start("tags", "backfill", "--tag", "student=student", "--rate", "40", url=database) as process:
            while len(rows_of(database)) < before + 40:
                assert process.poll() is None
            os.kill(process.pid, how)
            _, said = process.communicate(timeout=30)
        assert process.returncode == code, said
    place = int(said.partition("go on with --after ")[2].split()[0])
    assert place >= 80
    assert {position for _, position in rows_of(database)} >= set(range(1, place + 1))

    rest = json.loads(cli("tags", "backfill", "--tag", "student=student", "--after", str(place), "--json", url=database))
    assert rest["events"] == 300 - place
    assert rows_of(database) == [(f"student:{n}", n + 1) for n in range(300)]
