"""Omniglot by the metric-based family."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.settings import Paper, Recipe, Settings

SNELL = Paper("Snell, Swersky & Zemel", "NeurIPS 2017", "https://arxiv.org/abs/1703.05175")

PROTONET = Settings(
    algorithm="protonet",
    model="conv4",
    data="omniglot",
    options={"distance": "euclidean", "temperature": 1.0},
    model_options={"filters": 64, "down": "pool", "stats": "running"},
    data_options={"split": "vinyals"},
    train=Shape(60, 1, 5),
    test=Shape(5, 1, 15),
    steps=4000,
    schedule="cosine",
    validate=200,
)
_PROTOCOL = (
    "Snell et al. 2017: 60-way training with 5 queries a class, Vinyals' split, rotations as classes, Adam 1e-3 "
    "halved every 2,000 episodes until validation stops improving, then again on train and validation; 1,000 test "
    "episodes with 15 queries a class, running batch statistics. Here: {steps} episodes, the rate brought to 0 by a "
    "cosine, no second training on the validation classes."
)

RECIPES: dict[str, Recipe] = {
    "protonet/omniglot-5way-1shot": Recipe(
        "characters never seen, one example of each", PROTONET, SNELL, "98.8 %", _PROTOCOL
    ),
    "protonet/omniglot-20way-1shot": Recipe(
        "the same among 20", replace(PROTONET, test=Shape(20, 1, 15)), SNELL, "96.0 %", _PROTOCOL
    ),
}
