"""Hyperparameter search: its folder, its trials, and their ranking.

- `trial.py`: one training of a config on a category
- `store.py`: the folder of a search, by which a killed one goes on
- `objective.py`: the figure that trials are judged by
- `ranking.py`: trials -> the best configs, over one category or many
- `effects.py`, `importance.py`: trials -> the effect and weight of each key
"""

from mrkd.training.search.importance import importances
from mrkd.training.search.ranking import comparable, finished, objectives, ranked
from mrkd.training.search.store import SEARCH_VERSION, Search
from mrkd.training.search.trial import Trial, key_of

__all__ = [
    "SEARCH_VERSION",
    "Search",
    "Trial",
    "comparable",
    "finished",
    "importances",
    "key_of",
    "objectives",
    "ranked",
]
