"""The rules, as pure functions: nothing here reads, writes or waits.

A command says what somebody wants. `query_of` says which events its rules speak of, `evolve` folds those into a `State`, and
`decide` gives the events that follow, or raises what is in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Final, assert_never

from eventstore import Query

from .events import COURSE, EVENTS, STUDENT, CapacityChanged, CourseClosed, CourseOpened, Enrolled, Fact, Left
from .refusals import (
    AlreadyEnrolledError,
    CourseClosedError,
    CourseExistsError,
    CourseFullError,
    NoSuchCourseError,
    NotEnrolledError,
    SeatsTakenError,
    TooManyCoursesError,
)

MOST_COURSES: Final = 5
"""How many courses a student may take at a time."""


@dataclass(frozen=True, slots=True)
class OpenCourse:
    """Let there be a course."""

    course_id: str
    title: str
    capacity: int


@dataclass(frozen=True, slots=True)
class ChangeCapacity:
    """Give a course more seats, or fewer, though not fewer than are taken."""

    course_id: str
    capacity: int


@dataclass(frozen=True, slots=True)
class CloseCourse:
    """Let nobody else in."""

    course_id: str


@dataclass(frozen=True, slots=True)
class Enrol:
    """Give a student a seat."""

    student_id: str
    course_id: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Give a student's seat back."""

    student_id: str
    course_id: str


Command = OpenCourse | ChangeCapacity | CloseCourse | Enrol | Leave


@dataclass(frozen=True, slots=True)
class Course:
    """A course as it stands."""

    capacity: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What a boundary's events say, and no more: it knows all about what the query asked for, and little about the rest.

    Attributes:
        courses: those that were opened, by id.
        seats: who has a seat where: (course, student).
    """

    courses: Mapping[str, Course] = field(default_factory=dict)
    seats: frozenset[tuple[str, str]] = frozenset()

    def taken(self, course_id: str) -> int:
        """How many seats of a course are taken."""
        return sum(course == course_id for course, _ in self.seats)

    def taken_by(self, student_id: str) -> int:
        """How many courses a student takes."""
        return sum(student == student_id for _, student in self.seats)


def query_of(command: Command) -> Query:
    """Return what the rules about a command speak of: as narrow as they allow, since whatever matches is in its way."""
    course = COURSE.of(command.course_id)
    match command:
        case OpenCourse():
            return Query(types=[CourseOpened], tags=[course])
        case CloseCourse():
            return Query(types=[CourseOpened, CourseClosed], tags=[course])
        case ChangeCapacity():
            return Query(types=EVENTS, tags=[course])
        case Enrol():
            return Query(types=EVENTS, tags=[course]) | Query(types=[Enrolled, Left], tags=[STUDENT.of(command.student_id)])
        case Leave():
            return Query(types=[Enrolled, Left], tags=[course, STUDENT.of(command.student_id)])
        case _:
            assert_never(command)


def fold(events: Iterable[Fact]) -> State:
    """Return what events say, in the order of the log."""
    return reduce(evolve, events, State())


def evolve(state: State, event: Fact) -> State:
    """Return what is known once an event is known as well."""
    match event:
        case CourseOpened(course_id=course, capacity=capacity):
            return replace(state, courses={**state.courses, course: Course(capacity)})
        case CapacityChanged(course_id=course, capacity=capacity):
            return replace(state, courses={**state.courses, course: replace(state.courses[course], capacity=capacity)})
        case CourseClosed(course_id=course):
            return replace(state, courses={**state.courses, course: replace(state.courses[course], closed=True)})
        case Enrolled(course_id=course, student_id=student):
            return replace(state, seats=state.seats | {(course, student)})
        case Left(course_id=course, student_id=student):
            return replace(state, seats=state.seats - {(course, student)})
        case _:
            assert_never(event)


def decide(command: Command, state: State) -> list[Fact]:
    """Return the events that follow from a command; none where everything is as it is wanted.

    Raises:
        RefusedError: the rule that is in the way.
    """
    match command:
        case OpenCourse(course_id=course_id):
            if course_id in state.courses:
                raise CourseExistsError(course_id)
            return [CourseOpened(course_id=course_id, title=command.title, capacity=command.capacity)]
        case ChangeCapacity(course_id=course_id, capacity=wanted):
            course, taken = _open_course(state, course_id), state.taken(course_id)
            if wanted < taken:
                raise SeatsTakenError(course_id, wanted, taken)
            return [] if wanted == course.capacity else [CapacityChanged(course_id=course_id, capacity=wanted)]
        case CloseCourse(course_id=course_id):
            _open_course(state, course_id)
            return [CourseClosed(course_id=course_id)]
        case Enrol():
            return [_enrol(command, state)]
        case Leave(student_id=student_id, course_id=course_id):
            if (course_id, student_id) not in state.seats:
                raise NotEnrolledError(student_id, course_id)
            return [Left(course_id=course_id, student_id=student_id)]
        case _:
            assert_never(command)


def _enrol(command: Enrol, state: State) -> Enrolled:
    student_id, course_id = command.student_id, command.course_id
    course = _open_course(state, course_id)
    if (course_id, student_id) in state.seats:
        raise AlreadyEnrolledError(student_id, course_id)
    if state.taken(course_id) >= course.capacity:
        raise CourseFullError(course_id, course.capacity)
    if state.taken_by(student_id) >= MOST_COURSES:
        raise TooManyCoursesError(student_id, MOST_COURSES)
    return Enrolled(course_id=course_id, student_id=student_id)


def _open_course(state: State, course_id: str) -> Course:
    course = state.courses.get(course_id)
    if course is None:
        raise NoSuchCourseError(course_id)
    if course.closed:
        raise CourseClosedError(course_id)
    return course
