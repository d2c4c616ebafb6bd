"""Decisions over tags: read what two tags say, decide, append on condition that nothing has changed; and what that costs others.

The decisions are about enrolments: each reads the events of one course of a thousand and of one student, joined by OR, takes them
apart as JSON, and appends one event with both tags, in a log where every course has ten events to begin with. The peer's log
holds the same. Who decides faster finds more events to read as the clock runs: that is in its own time. After a conflict both
begin anew within the call, which is counted.

*Check*: one decision on a tag, appended again and again with another tag's events, so that its token stays fresh and the tag
stays as long as it is: what is compared is the look behind the token, beneath a tag of a million events and beneath one of ten.
*Plain*: the same appends without tags, by a store that knows of tags and has used them, and by one that does not; it shows what
is paid in one version of the library, not what two versions differ by.
"""

import asyncio
import dataclasses
import functools
import uuid

from eventstore import Boundary, EventStore, Query

from .. import calling, enrolment, recorder, sharing
from ..core import OURS, Contest, Contestant, Gauge, Goal
from ..enrolment import Enrolled, anyone, enrolled, tags_of
from ..sample import Deposited, event
from .append import STREAM_LENGTH

GOALS = {1: 5, 8: 15}
"""Clients, and what DESIGN asks for."""

EVENTS_A_COURSE = 10
BIG, SMALL = 1_000_000, 10
PLAIN_CALLERS = 8

READ = """select e.position, e.data::text
          from (select distinct position from eventstore.event_tags where tenant_id = '' and tag = any($1::text[])) t,
               lateral (select position, data from eventstore.events x where x.position = t.position offset 0) e
          order by e.position"""
APPEND = """with inserted as (
                insert into eventstore.events (stream_id, version, type, event_id, data, tags)
                values ($1, 1, 'Enrolled', $2, $3::text::jsonb, $4::text[]) returning position, type, tags)
            insert into eventstore.event_tags (tag, position, type)
            select t.tag, i.position, i.type from inserted i, unnest(i.tags) as t (tag) returning position"""

ON_SMALL, WITHOUT = f"on a tag of {SMALL}", "one that does not"


def contests(scale):
    """Decisions of 1 and 8 clients, the check, and appends without tags."""
    for clients, goal in GOALS.items():
        yield Contest(
            topic="boundary",
            key=f"boundary.{clients}",
            title=f"read, decide, append over two tags, {clients} client{'s' if clients > 1 else ''}",
            contestants=(
                Contestant(OURS, functools.partial(ours, clients=clients)),
                Contestant("eventsourcing", functools.partial(eventsourcing, threads=clients), recorder.missing),
                Contestant("asyncpg, unguarded", functools.partial(unguarded, clients=clients)),
            ),
            size=scale.pick(4.0, 0.3),
            warmup=scale.pick(0.5, 0.1),
            prepare=prepare_enrolments,
            goals=(Goal("eventsourcing", goal),),
            unit="decisions/s",
        )
    big = scale.pick(BIG, 2_000)
    yield Contest(
        topic="boundary",
        key="boundary.check",
        title=f"append of a decision on a tag of {big:,} events",
        contestants=(Contestant(OURS, None), Contestant(ON_SMALL, None)),
        size=scale.pick(6.0, 0.2),
        warmup=scale.pick(0.5, 0.1),
        prepare=functools.partial(prepare_check, big=big),
        goals=(Goal(ON_SMALL, round(1 / 1.5, 2)),),
        unit="decisions/s",
        at_once=check,
    )
    yield Contest(
        topic="boundary",
        key="boundary.plain",
        title=f"one event without tags an append, {PLAIN_CALLERS} callers, in a store that uses tags",
        contestants=(Contestant(OURS, None), Contestant(WITHOUT, None)),
        size=scale.pick(15.0, 0.2),
        warmup=scale.pick(0.5, 0.1),
        prepare=prepare_enrolments,
        goals=(Goal(WITHOUT, 0.98),),
        at_once=plain,
    )


def gauges(scale):
    """What decisions suffer that share tags."""
    for way, title in sharing.WAYS.items():
        for clients in sharing.CLIENTS:
            yield Gauge(
                topic="boundary",
                key=f"boundary.{way}.{clients}",
                title=f"{title}, {clients} clients",
                measure=functools.partial(sharing.measure, way=way, clients=clients, seconds=scale.pick(3.0, 0.3)),
                unit="ms",
            )


async def prepare_enrolments(arena, _seconds):
    """Every course has its events, in our log and in the peer's."""
    events = EVENTS_A_COURSE * enrolment.COURSES
    await enrolment.fill(arena.bare, events)
    if not recorder.missing():
        (await asyncio.to_thread(recorder.TaggedRecorder, arena.dsn, 1)).close()  # makes the tables
        await enrolment.fill_recorder(arena.bare, events)


async def prepare_check(arena, _seconds, big):
    """Two tags, a big one and a small one."""
    await enrolment.announce(arena.bare, "course:big", big)
    await enrolment.announce(arena.bare, "course:small", SMALL)


async def ours(arena, seconds, clients):
    """`Boundary.decide`."""
    begun = done = 0
    async with EventStore(arena.dsn) as store:
        boundary = Boundary(store)

        async def call(_client, _n):
            nonlocal done
            course, student = anyone()
            of_course, of_student = tags_of(course, student)

            def decide(events):
                nonlocal begun
                begun += 1
                if not all(recorded.data.course_id for recorded in events):  # what decides looks at each
                    raise RuntimeError("expected events of courses")
                return {f"course-{course}": enrolled(course, student)}

            await boundary.decide(Query(tags=[of_course]) | Query(tags=[of_student]), decide)
            done += 1

        sample = await calling.measure(arena.meter, clients, seconds, call)
    return dataclasses.replace(sample, retries=begun / done - 1)


async def eventsourcing(arena, seconds, threads):
    """The recorder for decisions over tags, called by as many threads as it has connections."""
    log = await asyncio.to_thread(recorder.TaggedRecorder, arena.dsn, threads)
    begun, done = [0] * threads, [0] * threads

    def call(thread, _n):
        course, student = anyone()

        def decide(datas):
            begun[thread] += 1
            if not all(enrolment.validate(data).course_id for data in datas):
                raise RuntimeError("expected events of courses")
            return "Enrolled", enrolled(course, student).model_dump_json().encode(), tags_of(course, student)

        log.decide(tags_of(course, student), decide)
        done[thread] += 1

    sample = await calling.threads(arena.meter, threads, seconds, call)
    log.close()
    return dataclasses.replace(sample, retries=sum(begun) / sum(done) - 1)


async def unguarded(arena, seconds, clients):
    """The two statements and the commit that any decision over tags needs, and nothing that makes it hold: what is left for us.

    Each client has a connection. No lock, no look behind what was read, no version but 1 of a new stream.
    """
    connections = [await arena.connect() for _ in range(clients)]
    statements = [(await each.prepare(READ), await each.prepare(APPEND)) for each in connections]

    async def call(client, _n):
        read, append = statements[client]
        course, student = anyone()
        tags = tags_of(course, student)
        if not all(enrolment.validate(data).course_id for _, data in await read.fetch(tags)):
            raise RuntimeError("expected events of courses")
        data = enrolled(course, student).model_dump_json()
        await append.fetchval(str(uuid.uuid4()), uuid.uuid4(), data, tags)

    try:
        return await calling.measure(arena.meter, clients, seconds, call)
    finally:
        for connection in connections:
            await connection.close()


async def check(arena, seconds):
    """`Decision.append`, one after the other; what is appended is about others."""
    token = arena.token()
    async with EventStore(arena.dsn) as store:

        async def append(_caller, n, tag, decision):
            await decision.append(f"{tag}-{token}-{n // STREAM_LENGTH}", enrolled(*anyone()), expect=n % STREAM_LENGTH)

        works = {}
        for name, tag in ((OURS, "course:big"), (ON_SMALL, "course:small")):
            decision = await Boundary(store).read(Query(tags=[tag], types=[Enrolled]))
            works[name] = functools.partial(append, tag=tag, decision=decision)
        return await calling.in_slices(arena.meter, 1, seconds, works)


async def plain(arena, seconds):
    """`EventStore.append`; who uses tags has a lane for them, and asks each event's class for its own."""
    token = arena.token()
    async with (
        EventStore(arena.dsn, events=[Deposited, Enrolled]) as uses,
        EventStore(arena.dsn, events=[Deposited]) as without,
    ):
        await uses.append(f"course-{token}", enrolled(*anyone()))

        async def append(caller, n, name, store):
            await store.append(f"{name}-{token}-{caller}-{n // STREAM_LENGTH}", event(n), expect=n % STREAM_LENGTH)

        works = {
            name: functools.partial(append, name=name, store=store) for name, store in ((OURS, uses), (WITHOUT, without))
        }
        return await calling.in_slices(arena.meter, PLAIN_CALLERS, seconds, works)
