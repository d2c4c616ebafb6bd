"""What decisions over a boundary are about: students who enrol in courses, in a log where many have.

An event says who enrols where and has a tag for each. The recorder of the package eventsourcing gets the same events, tags and
JSON.
"""

import random
from typing import Annotated

from eventstore import Event, Tag

from .sample import FILL_STEP

COURSES = 1_000
STUDENTS = 10_000
NOTE = "enrolled by hand, at the front desk"


class Enrolled(Event):
    """About 100 bytes as JSON, and two tags."""

    course_id: Annotated[str, Tag("course")]
    student_id: Annotated[str, Tag("student")]
    note: str


def anyone():
    """A course and a student, by chance."""
    return str(random.randrange(COURSES)), str(random.randrange(STUDENTS))


def enrolled(course, student):
    """That one enrols there."""
    return Enrolled(course_id=course, student_id=student, note=NOTE)


def tags_of(course, student):
    """The tags that this event has."""
    return [f"course:{course}", f"student:{student}"]


validate = Enrolled.__pydantic_validator__.validate_json
"""What a user of a recorder calls for each event."""

_DATA = f"jsonb_build_object('course_id', n % {COURSES} || '', 'student_id', n % {STUDENTS} || '', 'note', '{NOTE}')"

_FILL = f"""
    with enrolled as (
        insert into eventstore.events (stream_id, version, type, event_id, tags, data)
        select 'course-' || n % {COURSES}, n / {COURSES} + 1, 'Enrolled', gen_random_uuid(),
               array['course:' || n % {COURSES}, 'student:' || n % {STUDENTS}], {_DATA}
        from generate_series(0, $1::bigint - 1) n
        returning position, type, tags)
    insert into eventstore.event_tags (tag, position, type)
    select t.tag, e.position, e.type from enrolled e, unnest(e.tags) as t (tag) order by e.position"""

_ANNOUNCE = """
    with announced as (
        insert into eventstore.events (stream_id, version, type, event_id, tags, data)
        select $1 || '-' || n / 1000, n % 1000 + 1, 'Announced', gen_random_uuid(), array[$1], '{}'
        from generate_series($2::bigint, $3::bigint - 1) n
        returning position, type)
    insert into eventstore.event_tags (tag, position, type) select $1, position, type from announced order by position"""

_FILL_RECORDER = f"""
    with enrolled as (
        insert into dcb_events_tt_main (type, data, tags)
        select 'Enrolled', convert_to({_DATA}::text, 'UTF8'),
               array['course:' || n % {COURSES}, 'student:' || n % {STUDENTS}]
        from generate_series(0, $1::bigint - 1) n
        returning id, tags)
    insert into dcb_events_tt_tag (tag, main_id) select t.tag, e.id from enrolled e, unnest(e.tags) as t (tag) order by e.id"""


async def fill(connection, events):
    """Make a log of so many enrolments, in turn over all courses and students; vacuum it. Nothing where a log is already."""
    if await connection.fetchval("select exists (select from eventstore.events)"):
        return
    await connection.execute(_FILL, events, timeout=600)
    await _vacuum(connection)


async def announce(connection, tag, events):
    """Give a tag so many events, of another type; vacuum the log. Nothing where it has any."""
    if await connection.fetchval("select exists (select from eventstore.event_tags where tenant_id = '' and tag = $1)", tag):
        return
    for first in range(0, events, FILL_STEP):
        await connection.execute(_ANNOUNCE, tag, first, min(events, first + FILL_STEP), timeout=600)
    await _vacuum(connection)


async def fill_recorder(connection, events):
    """As `fill`, for the tables of the package eventsourcing, which are there."""
    if await connection.fetchval("select exists (select from dcb_events_tt_main)"):
        return
    await connection.execute(_FILL_RECORDER, events, timeout=600)
    await connection.execute("vacuum (analyze) dcb_events_tt_main, dcb_events_tt_tag", timeout=600)


async def _vacuum(connection):
    await connection.execute("vacuum (analyze) eventstore.events, eventstore.event_tags", timeout=600)
