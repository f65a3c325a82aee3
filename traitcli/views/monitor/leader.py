"""Decides which trait colors the tokens."""

from __future__ import annotations

from collections.abc import Mapping

from traitcli.views.monitor.panel import TraitTrack

_MARGIN = 0.25
"""Calibrated score by which a trait must be ahead to become the leader."""


class Leader:
    """The trait the user chose, or else the calibrated trait whose mean is farthest from zero.

    A trait becomes the leader only by a margin. Without it, colors would flicker between two traits
    with similar means.
    """

    def __init__(self, chosen: str | None = None) -> None:
        self._chosen = chosen
        self.current: str | None = None
        self.changes: list[tuple[int, str]] = []
        """(index of the first token that the trait colors, trait)."""

    def after(self, index: int, tracks: Mapping[str, TraitTrack]) -> str | None:
        """The trait that colors token `index`, given tracks that include its scores."""
        leader = self._chosen if self._chosen in tracks else self._strongest(tracks)
        if leader is not None and leader != self.current:
            self.changes.append((index, leader))
        self.current = leader
        return leader

    def _strongest(self, tracks: Mapping[str, TraitTrack]) -> str | None:
        # Raw projections have another unit, so a trait without calibration cannot be compared.
        strengths = {
            name: abs(track.scores.mean or 0.0)
            for name, track in tracks.items()
            if track.calibrated
        }
        if not strengths:
            return None

        best = max(strengths, key=strengths.__getitem__)
        # The default lets the first leader win with any mean, even zero.
        margin = strengths[best] - strengths.get(self.current or "", -_MARGIN)
        return best if margin >= _MARGIN else self.current
