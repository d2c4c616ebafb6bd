"""What can happen to courses and to those who take them. The tags say whom an event is about: rules ask by them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from eventstore import Event, StreamId, Tag

COURSE: Final = Tag("course")
STUDENT: Final = Tag("student")

CourseId = Annotated[str, COURSE]
StudentId = Annotated[str, STUDENT]
Seats = Annotated[int, Field(ge=0)]


class CourseOpened(Event):
    """There is a course with so many seats."""

    course_id: CourseId
    title: str
    capacity: Seats


class CapacityChanged(Event):
    """It has so many seats from now on."""

    course_id: CourseId
    capacity: Seats


class CourseClosed(Event):
    """Nobody else gets in; who is in stays."""

    course_id: CourseId


class Enrolled(Event):
    """A student has a seat."""

    course_id: CourseId
    student_id: StudentId


class Left(Event):
    """A student has given the seat back."""

    course_id: CourseId
    student_id: StudentId


Fact = CourseOpened | CapacityChanged | CourseClosed | Enrolled | Left
EVENTS: Final = (CourseOpened, CapacityChanged, CourseClosed, Enrolled, Left)


def stream_of(course_id: str) -> str:
    """The stream of a course's events. No rule rests on it: it is where people look."""
    return StreamId("course", course_id)
