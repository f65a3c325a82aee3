"""Extracts a vector with a model that is in memory, in the run folder of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traitcli.api.vector import Vector
from traitcli.api.work import Work
from traitcli.config import Config, change_config
from traitcli.errors import RunError
from traitcli.events import STAGES
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import Trait
from traitcli.runs.run import find_run
from traitcli.traits.definitions import select_traits
from traitcli.vectors.files import read_vector, vector_folder

if TYPE_CHECKING:
    from traitcli.api.vector_model import VectorModel


def extract(
    model: VectorModel,
    trait: str | Trait,
    questions: int | Sequence[str] | None,
    names: tuple[str | None, str | None],
    settings: Mapping[str, Any],
) -> Vector:
    """Do what is missing of all stages, with progress; see `Model.extract`.

    `names` are those of the judge's backend and of the run.
    """
    from traitcli.scheduling.placement import DeviceRequest
    from traitcli.views import open_view

    judge, run_name = names
    changes = dict(settings)
    if isinstance(questions, int):
        changes["extract.questions"] = questions
    if judge is not None:
        changes["judge.backend"] = judge
    typed = {"extract.questions": "questions", "judge.backend": "judge"}
    config = change_config(
        model.config, changes, {key: typed[key] for key in typed if key not in settings}
    )
    chosen = _choose(config, trait, questions)
    run = find_run(config, run_name)
    ledgers = RunLedgers(run, (chosen,))
    work = Work(config, (chosen,), run, ledgers, STAGES, loaded=model.loaded)
    with open_view() as view:
        failures = work.do(DeviceRequest(), view.show)
    for failure in failures:
        raise RunError(failure.problem, cause=failure.cause, fix=failure.fix)
    return Vector.of(read_vector(vector_folder(config) / f"{chosen.name}.safetensors"))


def _choose(config: Config, trait: str | Trait, questions: int | Sequence[str] | None) -> Trait:
    if isinstance(trait, str):
        [trait] = select_traits(config.paths.traits, [trait])
    if questions is None or isinstance(questions, int):
        return trait
    return replace(trait, questions=tuple(questions))
