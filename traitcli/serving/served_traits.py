"""The traits of a server: what requests may be scored and steered by, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.api.alarm_rules import read_rules
from traitcli.api.model import split_chat
from traitcli.api.vector_source import VectorSource, check_monitored
from traitcli.config import MonitorConfig
from traitcli.errors import VectorError
from traitcli.models.chat_format import Message
from traitcli.monitoring.watch import Watch
from traitcli.steering.interventions import prepare_interventions
from traitcli.steering.parse import parse_intervention
from traitcli.vectors.files import find_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from traitcli.api.model import Model
    from traitcli.api.vector_model import Watched
    from traitcli.generation.projections import Probe
    from traitcli.serving.served import ServedRequest


class ServedTraits:
    """Makes the `Watch` of each request; the probes of all requests are the same objects.

    Args:
        model: The model and its vectors.
        traits: What may be scored; none: all traits that have a vector.
        stop_on: Rules that end any answer, as `monitor --stop-on` takes them.

    Raises:
        UserError: A rule is not valid, or two vectors have one name.
        VectorError: A vector does not exist, or does not fit the model.
    """

    def __init__(self, model: Model, traits: Watched | None, stop_on: Sequence[str]) -> None:
        self._loaded = model.loaded
        self._position = model.config.vector.position
        self._source = VectorSource(model.config, None, (), None)
        known = _find_names(model)
        self._watch = model.watch(known if traits is None else traits, stop_on=stop_on)
        own = {trait: probe.vector for trait, probe in self._watch.probes.items()}
        # As in `monitor`, any trait with a vector can steer, also one that is not scored.
        others = {name: model.vector(name) for name in known if name not in own}
        self._vectors = others | own

    @property
    def names(self) -> tuple[str, ...]:
        """What may be scored."""
        return tuple(self._watch.probes)

    @property
    def probes(self) -> Mapping[str, Probe]:
        """What may be scored: trait -> its vector and layer."""
        return self._watch.probes

    def watch(self, request: ServedRequest) -> Watch:
        """What is scored of the answer to a request, and how it is generated.

        The traits of the server's rules are always scored, behind those of the request.

        Args:
            request: The request.

        Returns:
            What `monitor` would take for it. Its steering has no doses yet.

        Raises:
            UserError: A trait is unknown, a text cannot be parsed, or a chat has no message to
                answer.
            VectorError: A vector cannot be added at a layer, or has no class means or thresholds.
        """
        names = self.names if request.traits is None else request.traits
        for name in names:
            check_monitored(name, self.names)
        scored = tuple(dict.fromkeys([*names, *(rule.trait for rule in self._watch.rules)]))
        interventions = [parse_intervention(one, self._vectors, "steer") for one in request.steer]
        steering = prepare_interventions(interventions, self._vectors, self._loaded, self._position)
        vectors = {name: self._vectors[name] for name in scored}
        rules = read_rules(request.stop_on, "stop", self._source, vectors, option="stop_on")
        config, history = self._config(request)
        return Watch(
            {name: self._watch.probes[name] for name in scored},
            config,
            steering,
            (*self._watch.rules, *rules),
            history=history,
            about=request.about,
        )

    def _config(self, request: ServedRequest) -> tuple[MonitorConfig, tuple[Message, ...]]:
        """How the answer is generated, and the messages before the last one."""
        own = self._watch.config
        sampling = own.sampling.model_copy(update=request.sampling.model_dump())
        config = own.model_copy(update={"sampling": sampling, "seed": request.seed})
        if isinstance(request.prompt, str):
            # A text to continue has no place for a system message.
            return config.model_copy(update={"system": None}), ()
        config, history, _ = split_chat(request.prompt, config)
        return config, history


def _find_names(model: Model) -> list[str]:
    """All traits that have a vector of the model's own or a shipped one."""
    try:
        return list(find_vectors(model.config))
    # A server may have none: it then scores what it is given.
    except VectorError:
        return []
