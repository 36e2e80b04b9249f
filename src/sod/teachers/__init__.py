"""Who supervises: models that score the student's own tokens, what they are shown, and that their signal is real.

    privilege = privilege_of("solution", chat=agent.chat)      # None for "prompt": shown what the student is shown
    teacher = Teacher(scorer=model, vocabulary_size=..., privilege=privilege)
    teachers = Teachers(by_source={"math_dapo": teacher}, default=other)

`views` words what a teacher is shown, `alignment` moves the student's tokens behind it, `teacher` scores them,
`routing` chooses among several, `signal` checks, `opening` makes them of a config.
"""

from sod.teachers.alignment import Aligned, Alignment
from sod.teachers.opening import TeacherModels, open_teachers, teachers_of
from sod.teachers.routing import Share, Teachers
from sod.teachers.signal import MIN_TOKENS_TO_JUDGE, check_same_language, check_signal
from sod.teachers.teacher import PROBE_EPISODES, Supervision, Teacher
from sod.teachers.views import VIEWS, Privilege, View, privilege_of

__all__ = [
    "MIN_TOKENS_TO_JUDGE",
    "PROBE_EPISODES",
    "VIEWS",
    "Aligned",
    "Alignment",
    "Privilege",
    "Share",
    "Supervision",
    "Teacher",
    "TeacherModels",
    "Teachers",
    "View",
    "check_same_language",
    "check_signal",
    "open_teachers",
    "privilege_of",
    "teachers_of",
]
