"""Meta-learners, one paper a file."""

from mapsto.algorithms.metric.protonet import ProtoNet as ProtoNet
from mapsto.algorithms.optimization.inner import SGD as SGD
from mapsto.algorithms.optimization.inner import Adam as Adam
from mapsto.algorithms.optimization.inner import InnerOptimizer as InnerOptimizer
from mapsto.algorithms.optimization.maml import MAML as MAML
from mapsto.algorithms.optimization.reptile import Reptile as Reptile
