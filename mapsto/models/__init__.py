"""Models that the recipes use; any other `nn.Module` of one argument does as well."""

from mapsto.models.conv4 import Conv4 as Conv4
from mapsto.models.mlp import MLP as MLP
from mapsto.models.norm import BatchNorm as BatchNorm
