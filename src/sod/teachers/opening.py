"""Who teaches in a run: models opened as the config says, and teachers made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sod.chat import Chat, Tokenizer, load_tokenizer
from sod.config import TrainConfig
from sod.models import Model
from sod.teachers.routing import Teachers
from sod.teachers.signal import check_same_language
from sod.teachers.teacher import Teacher
from sod.teachers.views import privilege_of

if TYPE_CHECKING:
    from sod.models.copies import StudentCopy
    from sod.models.hf import HFModel

__all__ = ["TeacherModels", "open_teachers", "teachers_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherModels:
    """What scores for a run. `student_copy` is the default when the student teaches itself."""

    default: Model | None = None
    by_source: Mapping[str, Model]
    student_copy: StudentCopy | None = None

    def of(self, source: str) -> Model:
        """The model behind the teacher of a source that has one."""
        model = self.by_source.get(source, self.default)
        assert model is not None, f"nobody teaches {source!r}"
        return model

    def __bool__(self) -> bool:
        return self.default is not None or bool(self.by_source)


@asynccontextmanager
async def open_teachers(config: TrainConfig, student: HFModel, tokenizer: Tokenizer) -> AsyncIterator[TeacherModels]:
    """The run's teachers; their processes or connections end with the context.

    `student` was loaded by `config.student` or a checkpoint, and has not been trained since. Raises ModelError for a
    teacher of another vocabulary or template.
    """
    teaching = config.teaching
    if teaching.student_copy != "off":
        from sod.models.copies import open_copy

        own = open_copy(config.student, student, kind=teaching.student_copy, decay=teaching.ema_decay)
        yield TeacherModels(default=own.model, by_source={}, student_copy=own)
        return
    from sod.models.engine import open_model

    async with AsyncExitStack() as stack:
        opened: dict[str, Model] = {}
        configs = {**({} if config.teacher is None else {"": config.teacher}), **config.teachers}
        for source, each in configs.items():
            check_same_language(tokenizer, load_tokenizer(each.path))
            opened[source] = await stack.enter_async_context(open_model(each, sampling=config.sampling, scores=True))
        yield TeacherModels(default=opened.pop("", None), by_source=opened)


def teachers_of(models: TeacherModels, config: TrainConfig, *, tokenizer: Tokenizer, chat: Chat) -> Teachers | None:
    """The models as teachers, or None where there is none. They score at the temperature the student is sampled at."""
    if not models:
        return None

    def teacher(model: Model) -> Teacher:
        return Teacher(
            scorer=model,
            vocabulary_size=len(tokenizer.get_vocab()),
            temperature=config.sampling.temperature,
            by_step=config.update.teacher_scoring == "step",
            privilege=privilege_of(config.teaching.shows, chat=chat),
        )

    return Teachers(
        by_source={source: teacher(model) for source, model in models.by_source.items()},
        default=None if models.default is None else teacher(models.default),
    )
