"""Letters drawn on the machine: no download, nothing published to compare with."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.metric import PROTONET, SNELL
from mapsto.recipes.optimization import FINN, SHORT
from mapsto.recipes.settings import Recipe

_PROTOCOL = "Trained on Latin and Greek, tested on Armenian and Georgian."

RECIPES: dict[str, Recipe] = {
    "protonet/glyphs-5way-1shot": Recipe(
        "letters of scripts never seen; needs no download",
        replace(PROTONET, data="glyphs", data_options={}, train=Shape(20, 1, 5), steps=700, lr=2e-3, validate=100),
        SNELL,
        None,
        _PROTOCOL,
    ),
    "maml/glyphs-5way-1shot": Recipe(
        "the same by fine-tuning",
        replace(SHORT, data="glyphs", data_options={}, options={**SHORT.options, "lr": 0.5}, steps=1200),
        FINN,
        None,
        _PROTOCOL,
    ),
}
