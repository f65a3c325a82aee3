"""traitcli inspect methods"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.cli.options import (
    ConfigFile,
    Json,
    JudgeName,
    LabelKey,
    Overrides,
    RunName,
    Traits,
    TrustRemoteCode,
    Verbose,
)
from traitcli.errors import RunError, UserError

if TYPE_CHECKING:
    from traitcli.config import Config
    from traitcli.inspection.compare_methods import ComparedMethod
    from traitcli.monitoring.labelled_answers import LabelledFile
    from traitcli.records import Trait
    from traitcli.runs.run import Run

Answers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Test the methods on labelled answers of another source too; needs the name of one "
        "trait and loads the model.",
    ),
]


def methods(
    names: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    judge: JudgeName = None,
    answers: Answers = None,
    label: LabelKey = None,
    verbose: Verbose = False,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Compare methods for building vectors on a run's rollouts."""
    from functools import partial

    from traitcli.api.trait_names import check_trait_names
    from traitcli.cli.output import show
    from traitcli.config import load_config
    from traitcli.runs.run import find_run, require_run
    from traitcli.traits.definitions import select_traits
    from traitcli.views.tables.methods import methods_table

    settings = load_config(config, overrides or ())
    found = find_run(settings, run)
    check_trait_names(settings, found, names or (), "inspect methods")
    require_run(found)
    chosen = select_traits(settings.paths.traits, names or settings.traits or found.trait_names())
    # Before the comparison, which takes seconds for each trait.
    labelled = _read_labelled(found, settings, chosen, (answers, label))
    compared = _compare(found, chosen, settings, judge)
    rows = [one.row for one in compared]
    if answers is not None and labelled is not None:
        source = answers.name, labelled
        figures = _read_answers(
            settings, compared, source, as_json=as_json, trust=trust_remote_code
        )
        rows = [row | figures[row["method"]] for row in rows]
    show(rows, partial(methods_table, verbose=verbose), as_json)


def _read_labelled(
    run: Run, config: Config, traits: Sequence[Trait], options: tuple[Path | None, str | None]
) -> LabelledFile | None:
    """The answers of --answers; None without the option.

    Raises UserError for --labels alone and for several traits, and RunError for a run of another
    model.
    """
    from traitcli.cli.output import say
    from traitcli.monitoring.labelled_answers import LABEL, read_labelled

    path, key = options
    if path is None:
        if key is not None:
            raise UserError(
                "--labels needs --answers",
                cause="it names a key of the labelled answers",
                fix=f"--answers FILE --labels {key}",
            )
        return None
    if len(traits) != 1:
        raise UserError(
            "--answers needs one trait",
            cause=f"the labels of a file are about one trait, and {len(traits)} are compared",
            fix=f"traitcli inspect methods TRAIT --answers {path}",
        )
    model = run.manifest()["model"]
    if model != config.model.name:
        raise RunError(
            f"{config.model.name} cannot read answers for run {run.name}",
            cause=f"the directions of the run are of {model}",
            fix="name the config of that model (-c CONFIG)",
        )
    labelled = read_labelled(path, key or LABEL, None)
    say(labelled.description)
    return labelled


def _compare(
    run: Run, traits: Sequence[Trait], config: Config, judge: str | None
) -> list[ComparedMethod]:
    from rich.console import Console
    from rich.text import Text

    from traitcli.inspection.compare_methods import compare_methods

    # On stderr, because stdout gets the table, or JSON for programs.
    with Console(stderr=True).status("") as status:
        return compare_methods(
            run, traits, config, judge, lambda step: status.update(Text(f"{step} …"))
        )


def _read_answers(
    config: Config,
    compared: Sequence[ComparedMethod],
    source: tuple[str, LabelledFile],
    *,
    as_json: bool,
    trust: bool,
) -> dict[str, dict[str, Any]]:
    """Method -> its figures on the answers."""
    from traitcli.api.model import Model
    from traitcli.cli.output import say
    from traitcli.inspection.compare_methods import BASELINE
    from traitcli.inspection.labelled_scores import not_read
    from traitcli.inspection.method_answers import answer_figures, read_by_method
    from traitcli.views import open_monitor_view

    name, labelled = source
    vectors = {one.vector.method: one.vector for one in compared}
    with open_monitor_view(as_json=as_json) as view:
        loaded = Model.open(config, view.show, trust).loaded
        read = read_by_method(
            loaded, vectors, config.vector.position, labelled.answers, config.monitor, view.show
        )
    if read.failures:
        say(not_read(read.failures))
    return answer_figures(read, name, BASELINE)
