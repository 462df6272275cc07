"""Omniglot by learners that read the support set in its order."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.settings import Paper, Recipe, Settings

SANTORO = Paper("Santoro et al.", "ICML 2016", "https://proceedings.mlr.press/v48/santoro16.html")
MUNKHDALAI = Paper("Munkhdalai & Yu", "ICML 2017", "https://arxiv.org/abs/1703.00837")
MISHRA = Paper("Mishra et al.", "ICLR 2018", "https://arxiv.org/abs/1707.03141")

MANN = Settings(
    algorithm="mann",
    model="pixels",
    data="omniglot",
    options={"hidden": 200, "slots": 128, "width": 40, "heads": 4},
    model_options={"size": 20},
    data_options={"split": "random"},
    train=Shape(5, 5, 1),
    test=Shape(5, 1, 15),
    steps=15_000,
    batch=32,
    lr=3e-3,
    clip=10.0,
    validate=300,
)
LSTM = replace(MANN, algorithm="lstm", options={"hidden": 200})
SNAIL = Settings(
    algorithm="snail",
    model="conv4",
    data="omniglot",
    options={"shot": 1, "filters": 128},
    model_options={"filters": 64, "down": "pool", "stats": "running"},
    data_options={"split": "random"},
    train=Shape(5, 1, 5),
    test=Shape(5, 1, 15),
    steps=2500,
    batch=8,
    schedule="late",
    clip=10.0,
    validate=200,
)
META_NETWORKS = replace(
    SNAIL,
    algorithm="metanetworks",
    options={"hidden": 64, "units": 20},
    train=Shape(5, 1, 10),
    steps=4000,
    batch=1,
    validate=1000,
)

_PRESENTED = (
    "Santoro et al. 2016: images of 20x20 with small turns and shifts, quarter turns as classes, 1,200 characters for "
    "training; tasks are sequences in which each of 5 classes comes ten times, labels one step late. Here each comes "
    "five times, and 5 queries follow (sequences of 50 stay on the plateau at ln 5 for the first 2,500 meta-steps): "
    "{steps} meta-steps of 32 such sequences, Adam 3e-3, no turns and shifts, 1,100 characters. The score is that of "
    "second presentations after one of each class"
)
_MANN = _PRESENTED + "; the paper's are in the midst of a sequence, and quoted from Finn et al. 2017 (table 1)."
_SNAIL = (
    "Mishra et al. 2018: 1,200 characters and their turns, 1 to 5 examples of each class in training, one query a "
    "sequence. Here: {steps} meta-steps of 8 tasks, always 1 example, 25 queries a task as so many sequences, 1,100 "
    "characters, running batch statistics. Bandits, section 5.2 of the paper, are in docs/bandits.md."
)
_META_NETWORKS = (
    "Munkhdalai & Yu 2017: five convolutions and two linear layers in each of two networks, all with fast weights; 10 "
    "queries a class, one task a step, 1,200 characters and their turns; quoted from later papers' tables. Here: fast "
    "weights in the layers upon one Conv4 only, {steps} tasks, 1,100 characters, running batch statistics."
)

_GAP = "A small part of the papers' trainings."

RECIPES: dict[str, Recipe] = {
    "mann/omniglot-5way-1shot": Recipe(
        "a memory written once and found again",
        MANN,
        SANTORO,
        "82.8 %",
        _MANN,
        "Shorter sequences, images as they are, and a validation score that was still rising.",
        {"5way-5shot": "94.9 %"},
    ),
    "lstm/omniglot-5way-1shot": Recipe("the same without the memory", LSTM, SANTORO, None, _PRESENTED + "."),
    "snail/omniglot-5way-1shot": Recipe(
        "convolutions over time and attention", SNAIL, MISHRA, "99.07 ± 0.16 %", _SNAIL, _GAP
    ),
    "meta-networks/omniglot-5way-1shot": Recipe(
        "weights made of loss gradients", META_NETWORKS, MUNKHDALAI, "98.9 %", _META_NETWORKS, _GAP
    ),
}
