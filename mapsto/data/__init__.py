"""Data sets and the tasks made of them."""

from mapsto.data.cifar import CIFARFS as CIFARFS
from mapsto.data.cifar import FC100 as FC100
from mapsto.data.folder import Folder as Folder
from mapsto.data.folder import image_folder as image_folder
from mapsto.data.folder import split_classes as split_classes
from mapsto.data.glyphs import Glyphs as Glyphs
from mapsto.data.imagenet import MiniImageNet as MiniImageNet
from mapsto.data.imagenet import TieredImageNet as TieredImageNet
from mapsto.data.labelled import Labelled as Labelled
from mapsto.data.omniglot import Omniglot as Omniglot
from mapsto.data.sinusoid import Sinusoid as Sinusoid
from mapsto.data.tasks import Tasks as Tasks
