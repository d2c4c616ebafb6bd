"""Enrolment in courses: rules that span courses and students, kept by decisions over a boundary."""
