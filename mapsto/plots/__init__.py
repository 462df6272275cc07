"""Pictures of a run, as matplotlib figures that share one style."""

from mapsto.plots.functions import completions as completions
from mapsto.plots.functions import regression_bands as regression_bands
from mapsto.plots.runs import learning_curve as learning_curve
from mapsto.plots.runs import score_by_steps as score_by_steps
from mapsto.plots.tasks import embedding_map as embedding_map
from mapsto.plots.tasks import gallery as gallery
from mapsto.plots.tasks import regression_fits as regression_fits
