"""Data sets and the tasks made of them."""

from mapsto.data.batches import Batches as Batches
from mapsto.data.cifar import CIFARFS as CIFARFS
from mapsto.data.cifar import FC100 as FC100
from mapsto.data.completion import Completion as Completion
from mapsto.data.fitted import fitted as fitted
from mapsto.data.folder import Folder as Folder
from mapsto.data.folder import image_folder as image_folder
from mapsto.data.folder import split_classes as split_classes
from mapsto.data.gaussian_process import GaussianProcess as GaussianProcess
from mapsto.data.glyphs import Glyphs as Glyphs
from mapsto.data.imagenet import MiniImageNet as MiniImageNet
from mapsto.data.imagenet import TieredImageNet as TieredImageNet
from mapsto.data.labelled import Labelled as Labelled
from mapsto.data.lake import LakeRuns as LakeRuns
from mapsto.data.metadataset import MetaDataset as MetaDataset
from mapsto.data.omniglot import Omniglot as Omniglot
from mapsto.data.omniglot import alphabets as alphabets
from mapsto.data.presentations import Presentations as Presentations
from mapsto.data.projections import Digits as Digits
from mapsto.data.projections import Projections as Projections
from mapsto.data.sinusoid import Sinusoid as Sinusoid
from mapsto.data.tables import Tables as Tables
from mapsto.data.tasks import Tasks as Tasks
