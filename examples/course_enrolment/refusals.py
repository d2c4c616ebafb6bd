"""What is in the way of what somebody wants. True when it was read; it may be otherwise a moment later."""

from __future__ import annotations


class RefusedError(Exception):
    """A rule is in the way. Nothing was written."""


class CourseExistsError(RefusedError):
    """The id is taken."""

    def __init__(self, course_id: str) -> None:
        self.course_id = course_id
        super().__init__(f"there is a course {course_id!r} already; choose another id")


class NoSuchCourseError(RefusedError):
    """Nobody has opened it."""

    def __init__(self, course_id: str) -> None:
        self.course_id = course_id
        super().__init__(f"there is no course {course_id!r}")


class CourseClosedError(RefusedError):
    """It takes nobody else."""

    def __init__(self, course_id: str) -> None:
        self.course_id = course_id
        super().__init__(f"the course {course_id!r} is closed")


class CourseFullError(RefusedError):
    """Every seat is taken."""

    def __init__(self, course_id: str, capacity: int) -> None:
        self.course_id, self.capacity = course_id, capacity
        super().__init__(f"all {capacity} seats of {course_id!r} are taken; try again when somebody has left")


class SeatsTakenError(RefusedError):
    """More seats are taken than would be left."""

    def __init__(self, course_id: str, wanted: int, taken: int) -> None:
        self.course_id, self.wanted, self.taken = course_id, wanted, taken
        super().__init__(f"{taken} seats of {course_id!r} are taken, so that it cannot have {wanted}")


class TooManyCoursesError(RefusedError):
    """The student takes as many courses as a student may."""

    def __init__(self, student_id: str, most: int) -> None:
        self.student_id, self.most = student_id, most
        super().__init__(f"{student_id!r} takes {most} courses, which is the most; leave one first")


class AlreadyEnrolledError(RefusedError):
    """The student has a seat."""

    def __init__(self, student_id: str, course_id: str) -> None:
        self.student_id, self.course_id = student_id, course_id
        super().__init__(f"{student_id!r} has a seat in {course_id!r} already")


class NotEnrolledError(RefusedError):
    """The student has no seat to give back."""

    def __init__(self, student_id: str, course_id: str) -> None:
        self.student_id, self.course_id = student_id, course_id
        super().__init__(f"{student_id!r} has no seat in {course_id!r}")
