"""mapsto: meta-learning and few-shot learning. Everything is a mapping."""

from mapsto.axis import over_tasks as over_tasks
from mapsto.contract import ContractError as ContractError
from mapsto.contract import check as check
from mapsto.episode import Episode as Episode
from mapsto.episode import Examples as Examples
from mapsto.episode import stack as stack
from mapsto.errors import DataError as DataError
from mapsto.errors import MapstoError as MapstoError
from mapsto.evaluate import Scores as Scores
from mapsto.evaluate import evaluate as evaluate
from mapsto.learner import MetaLearner as MetaLearner
from mapsto.train import Diverged as Diverged
from mapsto.train import fit as fit

__version__ = "0.1.0"
