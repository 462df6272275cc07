"""Tasks that are acted in: bandits, policies that remember, and how they are trained."""

from mapsto.rl.bandits import Bandits as Bandits
from mapsto.rl.bandits import BernoulliBandits as BernoulliBandits
from mapsto.rl.bandits import play as play
from mapsto.rl.bandits import random as random
from mapsto.rl.bandits import thompson as thompson
from mapsto.rl.bandits import ucb1 as ucb1
from mapsto.rl.planning import Gittins as Gittins
from mapsto.rl.planning import optimum as optimum
from mapsto.rl.policies import LSTMPolicy as LSTMPolicy
from mapsto.rl.policies import SNAILPolicy as SNAILPolicy
from mapsto.rl.policy_gradient import Policy as Policy
from mapsto.rl.policy_gradient import Rollout as Rollout
from mapsto.rl.policy_gradient import Supply as Supply
from mapsto.rl.policy_gradient import Trials as Trials
from mapsto.rl.policy_gradient import advantages as advantages
from mapsto.rl.policy_gradient import improve as improve
from mapsto.rl.policy_gradient import roll as roll
from mapsto.rl.policy_gradient import surrogate as surrogate
