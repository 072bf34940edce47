"""Exploration of a request's first position: whether this service allows it, and the choice. Knows no HTTP.

The choice is made of scores and seed alone, so that a replay of the log makes it again.
"""

from dataclasses import replace

from msd.contract.pricing import Formula, ecpm_of, paid_by_click
from msd.contract.request import CheckedRequest, ExploreOptions, InvalidRequest
from msd.contract.uncertainty import COLUMN
from service.runtimes.runtime import Scores
from service.scoring.answer import Scored
from service.scoring.exploration import Choice, Exploration, choose_first, competing
from service.scoring.reply import served_places
from service.telemetry.metrics import Explored, Metrics


class Exploring:
    """Explores at most `share` of the requests that ask for it."""

    def __init__(self, share: float, metrics: Metrics) -> None:
        self._share = share
        self._metrics = metrics

    def exploration(self, options: ExploreOptions, request_id: str) -> Exploration:
        """Return what is explored. Raises InvalidRequest if this service does not allow it."""
        if not self._share:
            raise InvalidRequest("this service does not explore (MSD_EXPLORE_SHARE=0)", "explore")
        share = self._share if options.share is None else options.share
        if share > self._share:
            raise InvalidRequest(f"is {share:g}; this service explores at most {self._share:g}", "explore.share")
        return Exploration(options.policy, share, request_id if options.seed is None else str(options.seed))

    def choose(self, exploration: Exploration, request: CheckedRequest, scored: Scored) -> Scored:
        """Return the scores with the choice of the first candidate."""
        choice = first_of(exploration, request, scored.scores, scored.formula)
        result: Explored = "explored" if choice.explored else "exploited"
        self._metrics.explorations["unavailable" if choice.policy == "greedy" else result].inc()
        return replace(scored, choice=choice)


def first_of(exploration: Exploration, request: CheckedRequest, scores: Scores, formula: Formula) -> Choice:
    """Return the first candidate: the best one for certain if the scores have no uncertainty."""
    ecpm, pctr = ecpm_of(request.bids, request.pricing, scores, formula), scores["pctr"]
    greedy = int(served_places(ecpm, pctr, 1)[0])
    if COLUMN not in scores:
        return Choice("greedy", 0.0, exploration.seed, False, greedy, 1.0)
    by_click = paid_by_click(request.pricing, formula, len(request.ids))
    return choose_first(exploration, competing(request.ids, pctr, scores[COLUMN], ecpm, by_click), greedy)
