"""Measures a vector on labelled answers: reads them, prints the comparison and keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.api.vector_source import VectorSource
from traitcli.cli.output import print_json, say
from traitcli.errors import UserError
from traitcli.output_paths import check_output_folder

if TYPE_CHECKING:
    from traitcli.events import Listener
    from traitcli.inspection.labelled_rows import Baselines
    from traitcli.inspection.labelled_scores import ReadAnswer
    from traitcli.models.loaded import LoadedModel
    from traitcli.records import Trait, TraitVector
    from traitcli.vectors.labelled import LabelledTest


@dataclass(frozen=True, slots=True)
class LabelledComparison:
    """One inspect labels command."""

    source: VectorSource
    trait: str
    asks: bool
    trust: bool

    def run(
        self, file: Path, keys: tuple[str, str | None], keep: str | None, *, as_json: bool
    ) -> None:
        """Read, compare, print and keep; `keys` are those of the label and of the groups."""
        from traitcli.api.model import Model
        from traitcli.inspection.labelled_rows import labelled_rows
        from traitcli.inspection.labelled_scores import not_read, read_answers
        from traitcli.monitoring.labelled_answers import read_labelled
        from traitcli.views import open_monitor_view

        if keep is not None:
            # Before the model is loaded, which takes seconds to minutes.
            self._check_keep(keep)
        vectors = self.source.load()
        labelled = read_labelled(file, *keys)
        say(labelled.description)
        config = self.source.config
        with open_monitor_view(as_json=as_json) as view:
            model = Model.open(config, view.show, self.trust)
            loaded, vector = model.loaded, model.fitted(vectors[self.trait])
            probe = model.watch(vector).probes[self.trait]
            read = read_answers(loaded, probe, labelled.answers, config.monitor, view.show)
            if read.failures:
                say(not_read(read.failures))
            baselines = self._baselines(loaded, vector, read.answers, view.show)
        rows = labelled_rows(read.answers, baselines)
        test = self._test(keep or "", file, vector, read.answers, rows)
        self._print(test, rows, as_json)
        if keep is not None:
            self._keep(test, vector)

    @property
    def _vector_path(self) -> Path:
        """Where the vector is; for a shipped one, where your own would be."""
        path = self.source.path
        # `inspect vectors FILE` looks beside the file, whatever trait is in it.
        if path is not None and path.is_file():
            return path
        return self.source.folder / f"{self.trait}.safetensors"

    def _check_keep(self, name: str) -> None:
        """Raise TraitError for a name without letters, and where nothing can be stored."""
        from traitcli.vectors.labelled import read_tests

        if not name.strip():
            raise UserError(
                f"invalid --keep {name!r}",
                cause="the name is empty",
                fix="--keep NAME, for example the source of the answers",
            )
        check_output_folder(self.source.folder, "--vectors FOLDER")
        read_tests(self._vector_path)

    def _baselines(
        self,
        loaded: LoadedModel,
        vector: TraitVector,
        answers: Sequence[ReadAnswer],
        on_event: Listener,
    ) -> Baselines:
        from traitcli.inspection.labelled_rows import Baselines
        from traitcli.inspection.word_baseline import kept_rollouts, score_words

        words = score_words(
            kept_rollouts(self.source.config, vector), [one.text for one in answers]
        )
        return Baselines(
            words="not measured: no rollouts of this trait" if words is None else words.tolist(),
            asked=self._asked(loaded, answers, on_event),
            embedding=bool(vector.directions[self.source.config.vector.position][0].any()),
        )

    def _asked(
        self, loaded: LoadedModel, answers: Sequence[ReadAnswer], on_event: Listener
    ) -> Sequence[float | None] | str:
        from traitcli.events import TextsRead, Warned
        from traitcli.judging.local.yes_no import ask_yes_no

        if not self.asks:
            return "not measured: --no-ask"
        trait = self._definition()
        if trait is None or not trait.judge_prompt:
            return "not measured: the trait has no judge prompt"
        say(f"asking {loaded.name} yes or no about {len(answers):,} answers")
        return ask_yes_no(
            loaded,
            trait,
            [(one.answer.exchange.prompt, one.text) for one in answers],
            lambda done, tokens: on_event(TextsRead(done, len(answers), tokens)),
            lambda message: on_event(Warned("", message)),
        )

    def _definition(self) -> Trait | None:
        from traitcli.traits.definitions import find_traits, load_trait

        path = find_traits(self.source.config.paths.traits).get(self.trait)
        return load_trait(path) if path else None

    def _test(
        self,
        name: str,
        file: Path,
        vector: TraitVector,
        answers: Sequence[ReadAnswer],
        rows: Sequence[dict[str, Any]],
    ) -> LabelledTest:
        from traitcli.inspection.kept_test import make_test

        position, layer = self.source.config.vector.position, self.source.layer_of(vector)
        return make_test(name, file.name, (vector, position, layer), answers, rows)

    def _print(self, test: LabelledTest, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
        if as_json:
            from dataclasses import asdict

            print_json(asdict(test) | {"trait": self.trait})
            return
        from rich.console import Console

        from traitcli.views.tables.labels import labels_table

        labels_table(Console(), self.trait, test, rows)

    def _keep(self, test: LabelledTest, vector: TraitVector) -> None:
        """Store the test, and name those that were measured on an earlier vector."""
        from traitcli.vectors.labelled import keep_test, tests_of

        stored = keep_test(self._vector_path, test)
        say(f"kept as {test.name} in {stored}")
        _, former = tests_of(vector, self._vector_path)
        if former:
            names = ", ".join(test.name for test in former)
            say(f"of an earlier vector, no evidence for this one: {names}")
