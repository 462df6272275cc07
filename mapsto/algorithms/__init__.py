"""Meta-learners, one paper a file."""

from mapsto.algorithms.metric.matching import Matching as Matching
from mapsto.algorithms.metric.protonet import ProtoNet as ProtoNet
from mapsto.algorithms.metric.relation import Relation as Relation
from mapsto.algorithms.metric.siamese import Siamese as Siamese
from mapsto.algorithms.model_based.neural_process import ANP as ANP
from mapsto.algorithms.model_based.neural_process import CNP as CNP
from mapsto.algorithms.model_based.neural_process import NP as NP
from mapsto.algorithms.optimization.cavia import CAVIA as CAVIA
from mapsto.algorithms.optimization.imaml import IMAML as IMAML
from mapsto.algorithms.optimization.inner import InnerOptimizer as InnerOptimizer
from mapsto.algorithms.optimization.inner import gradients as gradients
from mapsto.algorithms.optimization.inner import trainable as trainable
from mapsto.algorithms.optimization.inner import unroll as unroll
from mapsto.algorithms.optimization.leo import LEO as LEO
from mapsto.algorithms.optimization.maml import MAML as MAML
from mapsto.algorithms.optimization.mamlpp import MAMLPlusPlus as MAMLPlusPlus
from mapsto.algorithms.optimization.metalstm import MetaLSTM as MetaLSTM
from mapsto.algorithms.optimization.metasgd import MetaSGD as MetaSGD
from mapsto.algorithms.optimization.optimizers import SGD as SGD
from mapsto.algorithms.optimization.optimizers import Adam as Adam
from mapsto.algorithms.optimization.optimizers import CoordinateRates as CoordinateRates
from mapsto.algorithms.optimization.optimizers import RMSProp as RMSProp
from mapsto.algorithms.optimization.optimizers import StepRates as StepRates
from mapsto.algorithms.optimization.protomaml import ProtoMAML as ProtoMAML
from mapsto.algorithms.optimization.reptile import Reptile as Reptile
