"""The enrolment example: its rules alone, its rules on a store, and its rules when everybody comes at once.

What was kept is found out by `audit`, which goes through the log with a fold of its own and shares no code with the example.
"""

import asyncio
import collections
import contextlib
import functools
import os
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventstore import Boundary, BoundaryConflict, EventStore, Query, sync
from eventstore.serialization import Registry
from eventstore.tags import tagger_of
from eventstore.testing import MemoryStore
from examples.course_enrolment.decider import (
    MOST_COURSES,
    ChangeCapacity,
    CloseCourse,
    Enrol,
    Leave,
    OpenCourse,
    decide,
    fold,
    query_of,
)
from examples.course_enrolment.events import EVENTS, CapacityChanged, CourseClosed, CourseOpened, Enrolled, Left
from examples.course_enrolment.handling import follow, handle, handle_blocking
from examples.course_enrolment.refusals import (
    AlreadyEnrolledError,
    CourseClosedError,
    CourseExistsError,
    CourseFullError,
    NoSuchCourseError,
    NotEnrolledError,
    RefusedError,
    SeatsTakenError,
    TooManyCoursesError,
)

ROOT = Path(__file__).parent.parent
REFUSALS = set(RefusedError.__subclasses__())

MATHS = CourseOpened(course_id="maths", title="Maths", capacity=2)
ADA, BOB, EVE = (Enrolled(course_id="maths", student_id=name) for name in ("ada", "bob", "eve"))
ADAS_OTHERS = [Enrolled(course_id=f"c{n}", student_id="ada") for n in range(MOST_COURSES)]


def audit(log):
    """Go through all that was recorded, in the order of the log; return where each course and student ended.

    Raises AssertionError at the first event by which a rule was broken.
    """
    capacity, seated, courses_of = {}, collections.defaultdict(list), collections.Counter()
    closed = set()
    for recorded in log:
        where, fact = (recorded.position, recorded.type), recorded.data.model_dump()
        course, student = fact["course_id"], fact.get("student_id")
        if recorded.type == "CourseOpened":
            assert course not in capacity, where
            capacity[course] = fact["capacity"]
        elif recorded.type == "CapacityChanged":
            assert course in capacity and course not in closed, where
            capacity[course] = fact["capacity"]
        elif recorded.type == "CourseClosed":
            assert course in capacity and course not in closed, where
            closed.add(course)
        elif recorded.type == "Enrolled":
            assert course in capacity and course not in closed, where
            assert student not in seated[course], where
            seated[course].append(student)
            courses_of[student] += 1
            assert courses_of[student] <= 5, where
        else:
            assert recorded.type == "Left" and student in seated[course], where
            seated[course].remove(student)
            courses_of[student] -= 1
        if course in capacity:
            assert len(seated[course]) <= capacity[course], where
    return capacity, dict(seated), courses_of


async def read(store):
    return [recorded async for recorded in store.read_all()]


# -- the rules alone


@pytest.mark.parametrize(
    ("given", "command", "then"),
    [
        ([], OpenCourse("maths", "Maths", 2), [MATHS]),
        ([MATHS], OpenCourse("maths", "Maths again", 9), CourseExistsError),
        ([MATHS], ChangeCapacity("maths", 9), [CapacityChanged(course_id="maths", capacity=9)]),
        ([MATHS], ChangeCapacity("maths", 2), []),
        ([MATHS, ADA, BOB], ChangeCapacity("maths", 1), SeatsTakenError),
        ([MATHS, ADA, BOB, Left(course_id="maths", student_id="ada")], ChangeCapacity("maths", 1), 1),
        ([MATHS, CourseClosed(course_id="maths")], ChangeCapacity("maths", 9), CourseClosedError),
        ([], ChangeCapacity("maths", 9), NoSuchCourseError),
        ([MATHS], CloseCourse("maths"), [CourseClosed(course_id="maths")]),
        ([MATHS, CourseClosed(course_id="maths")], CloseCourse("maths"), CourseClosedError),
        ([], CloseCourse("maths"), NoSuchCourseError),
        ([MATHS], Enrol("ada", "maths"), [ADA]),
        ([], Enrol("ada", "maths"), NoSuchCourseError),
        ([MATHS, CourseClosed(course_id="maths")], Enrol("ada", "maths"), CourseClosedError),
        ([MATHS, ADA], Enrol("ada", "maths"), AlreadyEnrolledError),
        ([MATHS, ADA, BOB], Enrol("eve", "maths"), CourseFullError),
        ([MATHS, ADA, BOB, Left(course_id="maths", student_id="ada")], Enrol("eve", "maths"), [EVE]),
        ([MATHS, ADA, BOB, CapacityChanged(course_id="maths", capacity=3)], Enrol("eve", "maths"), [EVE]),
        ([MATHS, *ADAS_OTHERS], Enrol("ada", "maths"), TooManyCoursesError),
        ([MATHS, *ADAS_OTHERS, Left(course_id="c0", student_id="ada")], Enrol("ada", "maths"), [ADA]),
        ([MATHS, ADA, CourseClosed(course_id="maths")], Leave("ada", "maths"), [Left(course_id="maths", student_id="ada")]),
        ([MATHS, BOB], Leave("ada", "maths"), NotEnrolledError),
    ],
)
def test_given_what_has_happened_a_command_is_done_or_refused(given, command, then):
    """Without a store; where only a number stands, so many events follow."""
    if isinstance(then, type):
        with pytest.raises(then) as refused:
            decide(command, fold(given))
        assert str(refused.value)
    else:
        followed = decide(command, fold(given))
        assert (len(followed) if isinstance(then, int) else followed) == then


REGISTRY = Registry(EVENTS)


@functools.cache
def tags_of(fact):
    return set(tagger_of(type(fact))(fact))


def matching(query, facts):
    """The events that match, found by looking at each."""
    items = query.items(REGISTRY)
    return [
        fact
        for fact in facts
        if any(
            set(item.tags) <= tags_of(fact) and (item.types is None or type(fact).__name__ in item.types) for item in items
        )
    ]


def some_command(rng):
    """Of few courses and students, so that they meet every rule."""
    course, student = f"c{rng.randrange(7)}", f"s{rng.randrange(4)}"
    return rng.choices(
        [
            OpenCourse(course, "Some course", rng.randrange(4)),
            ChangeCapacity(course, rng.randrange(4)),
            CloseCourse(course),
            Enrol(student, course),
            Leave(student, course),
        ],
        [4, 4, 0.2, 20, 4],
    )[0]


def outcome(command, facts):
    try:
        return decide(command, fold(facts))
    except RefusedError as refused:
        return type(refused), str(refused)


def differences(query_of):
    """Decide on random histories; return the commands that end otherwise on what a query finds than on all there is, and how
    those on all there is end.
    """
    found, ends = [], set()
    for seed in range(20):
        rng, facts = random.Random(seed), []
        for _ in range(120):
            command = some_command(rng)
            right = outcome(command, facts)
            try:
                wrong = outcome(command, matching(query_of(command), facts)) != right
            except KeyError:  # a capacity of a course that nobody has opened
                wrong = True
            if wrong:
                found.append(command)
            if isinstance(right, list):
                facts += right
            ends.add(type(command) if isinstance(right, list) else right[0])
    return found, ends


def test_a_boundary_holds_all_that_its_rules_speak_of():
    """Deciding on it is as good as deciding on the whole log."""
    found, ends = differences(query_of)

    assert not found
    assert ends == {OpenCourse, ChangeCapacity, CloseCourse, Enrol, Leave} | REFUSALS


@pytest.mark.parametrize(
    ("narrow", "misjudged"),
    [
        (lambda c: Query(types=EVENTS, tags=[f"course:{c.course_id}"]), {Enrol}),
        (lambda c: Query(types=EVENTS, tags=[f"student:{c.student_id}"]) if isinstance(c, Enrol) else query_of(c), {Enrol}),
        (
            lambda c: (
                Query(types=set(EVENTS) - {Left}, tags=[f"course:{c.course_id}"])
                if isinstance(c, ChangeCapacity)
                else query_of(c)
            ),
            {ChangeCapacity},
        ),
        (lambda c: Query(types=[CourseOpened], tags=[f"course:{c.course_id}"]), {ChangeCapacity, CloseCourse, Enrol, Leave}),
    ],
    ids=["without the student", "without the course", "without a type", "the course's existence alone"],
)
def test_a_boundary_that_is_too_narrow_is_found_out(narrow, misjudged):
    """The test above would notice."""
    found, _ = differences(narrow)

    assert {type(command) for command in found} == misjudged


# -- on a store


@pytest.fixture(params=["memory", pytest.param("database", marks=pytest.mark.server)])
def url(request):
    """Of a fresh database; None stands for a store in memory."""
    return None if request.param == "memory" else request.getfixturevalue("database")


@pytest.fixture
async def stores(url):
    """Three stores on one log, as three processes have; in memory there can only be one."""
    async with contextlib.AsyncExitStack() as stack:
        if url is None:
            yield [await stack.enter_async_context(MemoryStore(events=EVENTS))] * 3
        else:
            yield [await stack.enter_async_context(EventStore(url, events=EVENTS)) for _ in range(3)]


@pytest.fixture
def store(stores):
    """One of them."""
    return stores[0]


async def test_a_course_from_its_opening_to_its_end(store):
    """Each command on what those before it have left; refused ones leave nothing."""
    do = functools.partial(handle, Boundary(store))

    await do(OpenCourse("maths", "Maths", 1))
    opened = await do(Enrol("ada", "maths"))
    for command, refusal in [
        (OpenCourse("maths", "Maths", 1), CourseExistsError),
        (Enrol("ada", "maths"), AlreadyEnrolledError),
        (Enrol("bob", "maths"), CourseFullError),
        (ChangeCapacity("maths", 0), SeatsTakenError),
        (Leave("bob", "maths"), NotEnrolledError),
        (Enrol("bob", "physics"), NoSuchCourseError),
    ]:
        with pytest.raises(refusal):
            await do(command)
    assert await do(ChangeCapacity("maths", 1)) == {}
    await do(Leave("ada", "maths"))
    await do(Enrol("bob", "maths"))
    await do(CloseCourse("maths"))
    with pytest.raises(CourseClosedError):
        await do(Enrol("ada", "maths"))

    log = await read(store)
    assert opened["course-maths"].version == 2
    assert [(one.stream_id, one.version, one.type) for one in log] == [
        ("course-maths", n, kind)
        for n, kind in enumerate(["CourseOpened", "Enrolled", "Left", "Enrolled", "CourseClosed"], 1)
    ]
    assert log[1].tags == ("course:maths", "student:ada")
    assert audit(log)[1] == {"maths": ["bob"]}


async def test_a_student_takes_five_courses_and_another_one_after_leaving_one(store):
    """A rule that spans the streams of the courses."""
    do = functools.partial(handle, Boundary(store))
    for n in range(MOST_COURSES + 1):
        await do(OpenCourse(f"c{n}", "Some course", 1))
    for n in range(MOST_COURSES):
        await do(Enrol("ada", f"c{n}"))

    with pytest.raises(TooManyCoursesError):
        await do(Enrol("ada", f"c{MOST_COURSES}"))
    await do(Leave("ada", "c0"))
    await do(Enrol("ada", f"c{MOST_COURSES}"))

    assert audit(await read(store))[2] == {"ada": MOST_COURSES}


async def test_who_leaves_is_in_nobodys_way(store):
    """Only the same student's seat in the same course is: a boundary of two tags at once."""
    do = functools.partial(handle, Boundary(store))
    await do(OpenCourse("maths", "Maths", 3))
    await do(OpenCourse("physics", "Physics", 3))
    await do(Enrol("ada", "maths"))
    decision = await Boundary(store).read(query_of(Leave("ada", "maths")))

    await do(Enrol("bob", "maths"))
    await do(Enrol("ada", "physics"))
    await do(ChangeCapacity("maths", 2))
    await decision.append_all(follow(Leave("ada", "maths"), decision.events))

    assert audit(await read(store))[1] == {"maths": ["bob"], "physics": ["ada"]}


async def test_it_works_inside_a_transaction_whose_own_events_count(store):
    """All of it is committed together, or nothing is."""
    with contextlib.suppress(CourseFullError):
        async with store.transaction() as tx:
            do = functools.partial(handle, Boundary(tx))
            await do(OpenCourse("maths", "Maths", 1))
            await do(Enrol("ada", "maths"))
            await do(Enrol("bob", "maths"))
    assert await read(store) == []

    async with store.transaction() as tx:
        do = functools.partial(handle, Boundary(tx))
        await do(OpenCourse("maths", "Maths", 1))
        await do(Enrol("ada", "maths"))
        with pytest.raises(CourseFullError):
            await do(Enrol("bob", "maths"))
        await do(Leave("ada", "maths"))
        await do(Enrol("bob", "maths"))
    assert audit(await read(store))[1] == {"maths": ["bob"]}


# -- everybody at once


class Together(Boundary):
    """Waits, after its first read, until so many have read: they all decide on the same."""

    def __init__(self, source, barrier):
        super().__init__(source)
        self.barrier, self.reads = barrier, 0

    async def read(self, query):
        decision = await super().read(query)
        self.reads += 1
        if self.reads == 1:
            async with asyncio.timeout(30):
                await self.barrier.wait()
        return decision


async def at_once(stores, commands):
    """Give each command on a boundary of its own, decided on what was there before all of them; return answers and reads."""
    barrier = asyncio.Barrier(len(commands))
    boundaries = [Together(stores[n % len(stores)], barrier) for n in range(len(commands))]
    answers = await asyncio.gather(
        *(handle(boundary, command) for boundary, command in zip(boundaries, commands, strict=True)), return_exceptions=True
    )
    unexpected = [one for one in answers if isinstance(one, BaseException) and not isinstance(one, RefusedError)]
    assert not unexpected, unexpected
    return answers, sum(boundary.reads for boundary in boundaries)


async def test_of_many_students_as_many_get_in_as_there_are_seats(stores):
    """Not one more, and not one fewer: whoever was overtaken while there were seats left decides again."""
    await handle(Boundary(stores[0]), OpenCourse("maths", "Maths", 7))
    students = [f"s{n}" for n in range(40)]

    answers, reads = await at_once(stores, [Enrol(student, "maths") for student in students])

    told = [type(answer) for answer in answers]
    assert (told.count(dict), told.count(CourseFullError)) == (7, 33)
    _, seated, _ = audit(await read(stores[0]))
    assert sorted(seated["maths"]) == sorted(s for s, answer in zip(students, answers, strict=True) if type(answer) is dict)
    assert reads > len(students), "nobody was overtaken: this was no race"


async def test_a_seat_is_given_or_taken_away_and_never_both(stores):
    """The capacity is lowered while two want the last seat: one of the three gets it."""
    for n in range(10):
        course = f"c{n}"
        await handle(Boundary(stores[0]), OpenCourse(course, "Some course", 1))

        commands = [Enrol(f"ada{n}", course), ChangeCapacity(course, 0), Enrol(f"bob{n}", course)]
        answers, _ = await at_once(stores, random.sample(commands, 3))

        assert sum(type(answer) is dict for answer in answers) == 1, answers
    audit(await read(stores[0]))


async def test_a_student_who_enrols_everywhere_at_once_gets_five(stores):
    """No two of those decisions share a course, or a stream."""
    for n in range(12):
        await handle(Boundary(stores[0]), OpenCourse(f"c{n}", "Some course", 1))

    answers, _ = await at_once(stores, [Enrol("ada", f"c{n}") for n in range(12)])

    told = [type(answer) for answer in answers]
    assert (told.count(dict), told.count(TooManyCoursesError)) == (5, 7)
    assert audit(await read(stores[0]))[2] == {"ada": 5}


async def test_the_rules_hold_whatever_everybody_does_at_once(stores):
    """Courses open, close and change, students come and go; the log has what was answered, and nothing else."""

    async def go(n):
        rng, boundary, done = random.Random(n), Boundary(stores[n % 3]), 0
        for _ in range(12):
            with contextlib.suppress(RefusedError):
                done += len(await handle(boundary, some_command(rng)))
        return done

    for n in range(7):
        await handle(Boundary(stores[0]), OpenCourse(f"c{n}", "Some course", 2))
    done = await asyncio.gather(*(go(n) for n in range(24)))

    log = await read(stores[0])
    audit(log)
    assert len(log) == 7 + sum(done)
    assert sum(recorded.type == "Enrolled" for recorded in log) > 15, "hardly anything happened"


async def test_the_audit_finds_what_happens_without_a_boundary(stores):
    """The same race with appends that rest on nothing: more students than seats."""
    await handle(Boundary(stores[0]), OpenCourse("maths", "Maths", 2))
    barrier = asyncio.Barrier(6)

    async def careless(n):
        command = Enrol(f"s{n}", "maths")
        decision = await Together(stores[n % 3], barrier).read(query_of(command))
        for stream_id, facts in follow(command, decision.events).items():
            await stores[n % 3].append(stream_id, facts)

    await asyncio.gather(*(careless(n) for n in range(6)))

    with pytest.raises(AssertionError, match="Enrolled"):
        audit(await read(stores[0]))


async def test_a_decision_without_retries_says_who_was_faster(stores):
    """For whoever would rather ask the student again."""
    await handle(Boundary(stores[0]), OpenCourse("maths", "Maths", 2))
    command = Enrol("ada", "maths")
    decision = await Boundary(stores[0]).read(query_of(command))
    await handle(Boundary(stores[1]), Enrol("bob", "maths"))

    with pytest.raises(BoundaryConflict) as conflict:
        await decision.append_all(follow(command, decision.events))

    assert (conflict.value.type, conflict.value.stream_id, conflict.value.version) == ("Enrolled", "course-maths", 2)
    assert await stores[0].stream_version("course-maths") == 2


# -- without an event loop


class TogetherBlocking(sync.Boundary):
    """As `Together`, for threads."""

    def __init__(self, source, barrier):
        super().__init__(source)
        self.barrier, self.reads = barrier, 0

    def read(self, query):
        decision = super().read(query)
        self.reads += 1
        if self.reads == 1:
            self.barrier.wait()
        return decision


@pytest.mark.server
def test_threads_race_for_seats_by_the_same_rules(database):
    """The blocking twin, in two stores with twelve threads between them; what they leave is sound."""
    with sync.EventStore(database, events=EVENTS) as one, sync.EventStore(database, events=EVENTS) as two:
        handle_blocking(sync.Boundary(one), OpenCourse("maths", "Maths", 4))
        barrier = threading.Barrier(13, timeout=30)
        boundaries = [TogetherBlocking((one, two)[n % 2], barrier) for n in range(13)]
        commands = [ChangeCapacity("maths", 3), *(Enrol(f"s{n}", "maths") for n in range(12))]

        def go(boundary, command):
            try:
                return handle_blocking(boundary, command)
            except RefusedError as refused:
                return refused

        with ThreadPoolExecutor(13) as threads:
            answers = list(threads.map(go, boundaries, commands))

        capacity, seated, _ = audit(list(one.read_all()))
    enrolled = sum(type(answer) is dict for answer in answers[1:])
    assert (capacity["maths"], enrolled) == ((3, 3) if type(answers[0]) is dict else (4, 4))
    assert len(seated["maths"]) == enrolled
    assert sum(boundary.reads for boundary in boundaries) > 13, "nobody was overtaken: this was no race"


@pytest.mark.server
async def test_threads_and_tasks_race_for_the_same_seats(database):
    """Blocking and async stores decide on one log."""
    students = [f"s{n}" for n in range(24)]

    def go(blocking, student):
        with contextlib.suppress(CourseFullError):
            return bool(handle_blocking(sync.Boundary(blocking), Enrol(student, "maths")))
        return False

    async def run(store, student):
        with contextlib.suppress(CourseFullError):
            return bool(await handle(Boundary(store), Enrol(student, "maths")))
        return False

    async with EventStore(database, events=EVENTS) as store:
        await handle(Boundary(store), OpenCourse("maths", "Maths", 11))
        with sync.EventStore(database, events=EVENTS) as blocking, ThreadPoolExecutor(6) as threads:
            loop = asyncio.get_running_loop()
            in_threads = [loop.run_in_executor(threads, go, blocking, student) for student in students[::2]]
            done = await asyncio.gather(*in_threads, *(run(store, student) for student in students[1::2]))
        _, seated, _ = audit(await read(store))

    assert sum(done) == len(seated["maths"]) == 11


# -- as it is started


def test_it_runs_as_its_readme_says():
    """Names and numbers differ from run to run; the rules do not."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENTSTORE_") or k == "EVENTSTORE_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.course_enrolment"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    readme = (ROOT / "examples" / "course_enrolment" / "README.md").read_text()
    (shown,) = re.findall(r"```\n(20 students.*?)```", readme, re.DOTALL)
    said = done.stdout
    assert re.search(r"^  5 done, 15 times CourseFullError$", said, re.MULTILINE)
    assert re.search(r"after 0 of \d events there were too many$", said, re.MULTILINE)
    assert shape(said) == shape(shown)


def shape(text):
    """The lines without who, how many, and which refusals."""
    return [re.sub(r"\d+", "n", re.sub(r"(in: |done).*", r"\1", line)) for line in text.splitlines()]
