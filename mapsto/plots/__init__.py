"""Pictures of a run, as matplotlib figures that share one style."""

from mapsto.plots.functions import completions as completions
from mapsto.plots.functions import regression_bands as regression_bands
from mapsto.plots.runs import learning_curve as learning_curve
from mapsto.plots.runs import score_by_steps as score_by_steps
from mapsto.plots.sequences import by_presentation as by_presentation
from mapsto.plots.sequences import looks as looks
from mapsto.plots.sequences import memory_over_time as memory_over_time
from mapsto.plots.tasks import embedding_map as embedding_map
from mapsto.plots.tasks import gallery as gallery
from mapsto.plots.tasks import regression_fits as regression_fits
