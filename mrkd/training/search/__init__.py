"""A search for the config that serves best: its folder, its trials, and who won.

trials.py      one training of a config on a category
folder.py      where they are kept, so that a killed search goes on
ranking.py     trials -> the best configs, over one category or many
importance.py  trials -> what each key decides
"""

from mrkd.training.search.importance import importances
from mrkd.training.search.ranking import comparable, finished, objectives, ranked
from mrkd.training.search.store import SEARCH_VERSION, TRIALS, Search
from mrkd.training.search.trial import Trial, key_of

__all__ = [
    "SEARCH_VERSION",
    "TRIALS",
    "Search",
    "Trial",
    "comparable",
    "finished",
    "importances",
    "key_of",
    "objectives",
    "ranked",
]
