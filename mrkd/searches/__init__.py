"""A search for the config that serves best: its folder, its trials, and who won.

trials.py      one training of a config on a category
folder.py      where they are kept, so that a killed search goes on
ranking.py     trials -> the best configs, over one category or many
importance.py  trials -> what each key decides
"""

from mrkd.searches.folder import SEARCH_VERSION, TRIALS, Search
from mrkd.searches.importance import importances
from mrkd.searches.ranking import comparable, finished, objectives, ranked
from mrkd.searches.trials import Trial, key_of

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
