"""Recipes are data: a name, the settings, and what the paper reports for the same job.

A learner's first recipe here is the one that README shows.
"""

import difflib

from mapsto.errors import MapstoError
from mapsto.recipes import (
    cifar,
    comparing,
    glyphs,
    heads,
    in_context,
    metric,
    neural_process,
    optimization,
    sequences,
    sinusoid,
)
from mapsto.recipes.settings import Paper as Paper
from mapsto.recipes.settings import Recipe as Recipe
from mapsto.recipes.settings import Settings as Settings

RECIPES: dict[str, Recipe] = {
    **optimization.RECIPES,
    **metric.RECIPES,
    **comparing.RECIPES,
    **heads.RECIPES,
    **sequences.RECIPES,
    **in_context.RECIPES,
    **cifar.RECIPES,
    **sinusoid.RECIPES,
    **neural_process.RECIPES,
    **glyphs.RECIPES,
}
DEFAULT = "protonet/glyphs-5way-1shot"


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        MapstoError: there is none; the message names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3)
    hint = f"the nearest are {', '.join(near)}" if near else "`mapsto list` shows them all"
    raise MapstoError(f"there is no recipe {name!r}; {hint}")
