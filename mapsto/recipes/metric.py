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

LAKE_PROTOCOL = (
    "No number in the paper. Its Omniglot settings on Lake's own split: 25 background alphabets, 5 more for "
    "validation, the 20 evaluation alphabets for test; {steps} episodes of 30 classes. Lake's 20 runs, within an "
    "alphabet, are harder than these test tasks, whose characters are of any alphabet."
)

RECIPES: dict[str, Recipe] = {
    "protonet/omniglot-5way-1shot": Recipe(
        "characters never seen, one example of each",
        PROTONET,
        SNELL,
        "98.8 %",
        _PROTOCOL,
        elsewhere={"5way-5shot": "99.7 %", "20way-1shot": "96.0 %", "20way-5shot": "98.9 %"},
    ),
    "protonet/omniglot-lake": Recipe(
        "trained on Lake's background alphabets alone; examples/lake_runs.py judges it beside people",
        replace(
            PROTONET, data_options={"split": "background"}, train=Shape(30, 1, 5), test=Shape(20, 1, 5), steps=1200
        ),
        SNELL,
        None,
        LAKE_PROTOCOL,
    ),
}
