"""Decides which trait colours the tokens."""

from __future__ import annotations

from collections.abc import Mapping

from traitcli.views.monitor.panel import TraitTrack

_MARGIN = 0.25


class Leader:
    """The trait asked for, or else the calibrated one whose running mean is farthest from zero.

    A trait takes the lead only by a margin, so that colours do not flicker between two that are close.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted = wanted
        self.current: str | None = None
        self.turns: list[tuple[int, str]] = []
        """(index of the token from which on, trait), as colours changed hands."""

    def after(self, index: int, tracks: Mapping[str, TraitTrack]) -> str | None:
        """The trait that colours token `index`, once `tracks` have taken its scores."""
        leader = self._wanted if self._wanted in tracks else self._farthest(tracks)
        if leader is not None and leader != self.current:
            self.turns.append((index, leader))
        self.current = leader
        return leader

    def _farthest(self, tracks: Mapping[str, TraitTrack]) -> str | None:
        distances = {
            name: abs(track.scores.mean or 0.0)
            for name, track in tracks.items()
            if track.calibrated
        }
        if not distances:
            return None
        best = max(distances, key=distances.__getitem__)
        lead = distances[best] - distances.get(self.current or "", -_MARGIN)
        return best if lead >= _MARGIN else self.current
