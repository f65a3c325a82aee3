"""A loaded model with its trait vectors: which are watched, and which it is steered by."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import currentframe
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from traitcli.api.alarm_rules import read_rules
from traitcli.api.turns import Turns
from traitcli.api.vector import Vector, read
from traitcli.api.vector_source import VectorSource
from traitcli.config import Config
from traitcli.errors import TraitWarning, UserError
from traitcli.events import Event, Listener, Warned
from traitcli.generation.load import load_model
from traitcli.generation.projections import make_probes
from traitcli.interventions import Intervention, Push
from traitcli.models.borrowed import using
from traitcli.models.identity import other_model_notes
from traitcli.monitoring.watch import Watch
from traitcli.records import TraitVector
from traitcli.steering.interventions import PreparedIntervention, prepare_interventions
from traitcli.steering.parse import parse_intervention, watched_trait
from traitcli.vectors.files import find_vectors, load_vectors
from traitcli.vectors.formats.layers import with_layers

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

Watched = str | TraitVector | Iterable[str | TraitVector]
"""Names of traits and vectors."""
Key = TypeVar("Key", bound=str | TraitVector)
Steerable = TypeVar("Steerable", bound="VectorModel")
Coefficient = float | str | Sequence[float | str]
"""How to steer along one vector: a number, a text as behind --steer, or several of them."""
_FILES = {".safetensors", ".pt", ".gguf", ".json"}


class VectorModel:
    """A model and its vectors; `Model` also writes and reads with them.

    Layers are numbered 0 (embeddings) to L (after the final norm), everywhere.

    loaded  the model, its tokenizer, and what is known of them
    config  the settings of its vectors, of generation and of runs; see docs/configs.md
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: Config,
        on_event: Listener | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.loaded = loaded
        self.config = config
        self._on_event = on_event or warn_user
        self._trust = trust_remote_code
        self._turns = Turns()
        # In a context variable: another task of the same event loop must not be steered.
        self._steering: ContextVar[tuple[PreparedIntervention, ...]] = ContextVar(
            "steering", default=()
        )

    @classmethod
    def open(cls, config: Config, on_event: Listener | None = None, trust: bool = False) -> Self:
        """Load the model of a config; raises ModelError like `traitcli.load`."""
        return cls(load_model(config.model, on_event or warn_user, trust), config, on_event, trust)

    def __repr__(self) -> str:
        layers = f"layers 0 to {self.loaded.blocks}"
        return f"<{type(self).__name__} {self.name} on {self.loaded.device}, {layers}>"

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "a model cannot be pickled",
            cause="its weights are in the memory of this process",
            fix="load it in each process, with traitcli.load",
        )

    @property
    def name(self) -> str:
        """The name of the folder that has its vectors."""
        return self.loaded.name

    def listening(self, on_event: Listener) -> Self:
        """The same model, whose events go to another listener; it shares turns and steering."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._on_event = on_event
        return other

    @contextmanager
    def held(self) -> Iterator[None]:
        """Use the model alone inside `with`; one of the user is then left as it was."""
        with self._turns.take(), using(self.loaded):
            yield

    def notify(self, event: Event) -> None:
        """Pass an event to the model's listener."""
        self._on_event(event)

    # Vectors

    def vector(self, name: str) -> Vector:
        """Find a vector as the command line does.

        Args:
            name: A trait, whose vector is in the vectors folder or shipped; or a vector file.

        Returns:
            The vector.

        Raises:
            VectorError: There is none, or it cannot be read.

        Example:
            >>> model.vector("evil").quality.verdict
            'reads its own texts'
        """
        if Path(name).suffix.lower() in _FILES:
            return self.fitted(read(name))
        return self.fitted(load_vectors(self.config, [name])[name])

    def vectors(self) -> dict[str, Vector]:
        """All vectors of this model by trait: shipped ones, and those of the vectors folder.

        Returns:
            Trait -> vector.

        Raises:
            VectorError: There is none.

        Example:
            >>> sorted(model.vectors())[:3]
            ['corrigibility', 'evil', 'hallucinating']
        """
        return {name: self.vector(name) for name in find_vectors(self.config)}

    def fitted(self, vector: TraitVector) -> Vector:
        """The vector with this model's number of layers, if its file does not say how many."""
        return Vector.of(with_layers(vector, self.loaded.layer_count))

    def chosen(self, watched: Watched) -> dict[str, Vector]:
        """Trait -> vector; raises UserError where two vectors have one name."""
        found: dict[str, Vector] = {}
        for one in dict.fromkeys(_each(watched)):
            vector = self.vector(one) if isinstance(one, str) else self.fitted(one)
            if vector.trait in found:
                raise UserError(
                    f"two vectors are called {vector.trait}",
                    cause="scores of both would have one name",
                    fix=f'rename one: vector.renamed("{vector.trait}-2")',
                )
            found[vector.trait] = vector
        return found

    # Watching

    def watch(
        self, watched: Watched = (), layer: int | None = None, stop_on: str | Iterable[str] = ()
    ) -> Watch:
        """What is scored while the model writes or reads; `steer` acts around the call, not here.

        Args:
            watched: Traits and vectors.
            layer: The layer to read for all of them (default: each vector's own).
            stop_on: Rules that end an answer, as for --stop-on: `evil>1.5`; see docs/alarms.md.

        Returns:
            What `generate`, `stream` and `score` take in place of names, to change its details.

        Raises:
            VectorError: A vector does not exist, or does not fit the model; or there is no
                threshold for a false-positive rate.
            UserError: A rule has another form, or names a trait that is not watched.

        Example:
            >>> watch = model.watch("evil", layer=12, stop_on="any(evil)>-9")
            >>> watch.layers, model.generate("Hello!", watch, max_new_tokens=4).finish_reason
            ({'evil': 12}, 'alarm')
        """
        vectors = self.chosen(watched)
        for note in other_model_notes(vectors.values(), self.loaded):
            self._on_event(Warned("", note))
        probes = make_probes(vectors.values(), self.loaded, self.config.vector.position, layer)
        source = VectorSource(self.config, None, tuple(vectors), layer)
        texts = [stop_on] if isinstance(stop_on, str) else stop_on
        rules = read_rules(texts, "stop", source, vectors, option="stop_on")
        return Watch(probes, self.config.monitor, rules=rules)

    # Two types of one thing: the key of a Mapping is invariant, and a literal has mixed keys.
    @overload
    def steer(
        self, coefficients: Mapping[str | TraitVector, Coefficient], watch: Watched = ()
    ) -> AbstractContextManager[Self]: ...

    @overload
    def steer(
        self, coefficients: Mapping[Key, Coefficient], watch: Watched = ()
    ) -> AbstractContextManager[Self]: ...

    def steer(
        self, coefficients: Mapping[Any, Coefficient], watch: Watched = ()
    ) -> AbstractContextManager[Self]:
        """Push along vectors, or brake, in every answer that is written inside `with`.

        Args:
            coefficients: Traits or vectors -> a number: 1 moves by the whole difference of the
                class means. A vector is added at its own layer; `vector.at(layer=14)` and
                `{"evil": "4@14"}` choose another one. Brakes are texts, as for --steer:
                `{"evil": "ablate"}` removes the direction, `{"evil": "<=0.5"}` caps its score, and
                `{"refusal": "1 if evil>1"}` pushes only while another score is beyond a bound. A
                list holds several for one trait: `{"evil": ["<=1", ">=-1"]}`.
            watch: Vectors that only conditions look at, such as one in memory: `watch=formal` for
                `"1 if formal>1"`. Others are found by name.

        Returns:
            A context, which gives the model, and can be used again. Nested ones add up.

        Raises:
            UserError: A coefficient has another form.
            VectorError: A vector does not exist, or cannot be added at its layer.

        Example:
            >>> with model.steer({"evil": -2.0}):
            ...     answer = model.generate("Hello!", max_new_tokens=2)
            >>> answer.steering[0].coefficient
            -2.0
        """
        if not isinstance(coefficients, Mapping):
            raise _not_steering(coefficients)
        values = zip(self.chosen(coefficients), coefficients.values(), strict=True)
        single = [
            (trait, one)
            for trait, value in values
            for one in (value if isinstance(value, list | tuple) else [value])
        ]
        vectors = self.chosen([*coefficients, *_each(watch)])
        for _, value in single:
            # What a gate looks at need not be among the traits that are steered.
            watched = watched_trait(value) if isinstance(value, str) else None
            if watched and watched not in vectors:
                vectors[watched] = self.vector(watched)
        interventions = [_intervention(trait, value, vectors) for trait, value in single]
        return _Steered(self, self._steering, self.prepare(interventions, vectors))

    def prepare(
        self, interventions: Iterable[Intervention], vectors: Mapping[str, TraitVector]
    ) -> tuple[PreparedIntervention, ...]:
        """What a `Watch` holds as its steering; raises VectorError like `steer`."""
        fitted = {name: self.fitted(vector) for name, vector in vectors.items()}
        return prepare_interventions(
            interventions, fitted, self.loaded, self.config.vector.position
        )

    def check_unsteered(self, watch: Watch | None = None) -> None:
        """Raise UserError for a call that only reads where something steers."""
        if self._steering.get() or (watch and watch.steering):
            raise UserError(
                "texts that exist already cannot be steered",
                cause="score, train and extract read the model as it is",
                fix="call it outside of `with model.steer(…)`",
            )


@dataclass(frozen=True, slots=True)
class _Steered(AbstractContextManager[Steerable]):
    """Interventions that act on what is written inside `with`, as often as it is entered."""

    model: Steerable
    active: ContextVar[tuple[PreparedIntervention, ...]]
    added: tuple[PreparedIntervention, ...]

    def __enter__(self) -> Steerable:
        self.active.set((*self.active.get(), *self.added))
        return self.model

    def __exit__(self, *error: object) -> None:
        # Contexts end in the opposite order, so the last ones are its own, in each task.
        now = self.active.get()
        self.active.set(now[: len(now) - len(self.added)])


def warn_user(event: Event) -> None:
    """Pass a warning on as a Python warning; other events are not shown."""
    if isinstance(event, Warned):
        text = f"{event.trait}: {event.message}" if event.trait else event.message
        warnings.warn(text, TraitWarning, stacklevel=_user_level() - 1)


def _user_level() -> int:
    """How many calls away the user's line is: what calls the outermost function of the package."""
    # As skip_file_prefixes, which Python 3.11 lacks.
    names, frame = [], currentframe()
    while frame:
        names.append(str(frame.f_globals.get("__name__")).partition(".")[0])
        frame = frame.f_back
    return len(names) - names[::-1].index(__package__.partition(".")[0]) + 1


def _each(watched: Watched) -> list[str | TraitVector]:
    """The names and vectors; raises UserError for anything else."""
    one = isinstance(watched, str | TraitVector) or not isinstance(watched, Iterable)
    each: list[Any] = [watched] if one else list(watched)  # type: ignore[arg-type]
    for item in each:
        if not isinstance(item, str | TraitVector):
            raise UserError(
                f"{item!r:.60} is neither the name of a trait nor a vector",
                cause=f"it is of type {type(item).__name__}",
                fix="give names, vectors or a list of both; a file with traitcli.read(path)",
            )
    return each


def _not_steering(value: object) -> UserError:
    return UserError(
        f"cannot steer by {value!r:.60}",
        cause=f"it is of type {type(value).__name__}",
        fix='give traits or vectors with numbers or texts: {"evil": -2.0, "refusal": "ablate"}',
    )


def _intervention(trait: str, value: object, vectors: Mapping[str, Vector]) -> Intervention:
    """Every kind is read here: a number, or a text as --steer takes it behind the name."""
    if isinstance(value, Real) and isfinite(value):
        return Push(trait, float(value), vectors[trait].layer)
    if not isinstance(value, str):
        raise _not_steering({trait: value})
    # A bound has its own sign: `evil<=0.5`, but `evil=4@14`.
    sign = "" if value.lstrip()[:1] in {"<", ">"} else "="
    return parse_intervention(f"{trait}{sign}{value.strip()}", vectors, "steering")
