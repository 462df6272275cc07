"""Omniglot by learners that compare: Siamese, matching and relation networks."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.metric import LAKE_PROTOCOL
from mapsto.recipes.settings import Paper, Recipe, Settings

KOCH = Paper(
    "Koch, Zemel & Salakhutdinov",
    "ICML Deep Learning Workshop 2015",
    "https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf",
)
HADSELL = Paper("Hadsell, Chopra & LeCun", "CVPR 2006", "https://doi.org/10.1109/CVPR.2006.100")
SCHROFF = Paper("Schroff, Kalenichenko & Philbin", "CVPR 2015", "https://arxiv.org/abs/1503.03832")
VINYALS = Paper("Vinyals et al.", "NeurIPS 2016", "https://arxiv.org/abs/1606.04080")
SUNG = Paper("Sung et al.", "CVPR 2018", "https://arxiv.org/abs/1711.06025")

SIAMESE = Settings(
    algorithm="siamese",
    model="conv4",
    data="omniglot",
    options={"objective": "verification"},
    model_options={"filters": 64, "down": "pool", "stats": "running"},
    data_options={"split": "vinyals"},
    train=Shape(20, 1, 5),
    test=Shape(5, 1, 15),
    steps=1500,
    schedule="cosine",
    validate=200,
)
CONTRASTIVE = replace(SIAMESE, steps=600, options={"objective": "contrastive", "margin": 1.0, "squared": True})
TRIPLET = replace(
    SIAMESE, steps=600, options={"objective": "triplet", "margin": 1.0, "squared": True, "mining": "semihard"}
)
MATCHING = replace(SIAMESE, algorithm="matching", options={"full_context": False, "temperature": 0.1})
RELATION = replace(
    SIAMESE,
    algorithm="relation",
    model="convmaps",
    options={},
    model_options={"filters": 64, "stats": "running"},
    train=Shape(5, 1, 5),
    steps=5000,
    validate=500,
)

_PAIRS = (
    "Finn et al. 2017 (table 1) quote this number for a convolutional Siamese network; Koch et al. 2015 tested 20-way "
    "within an alphabet, on images of 105x105. Here: Conv4 as in ProtoNet's recipe, {steps} tasks of 20 classes with 6 "
    "images each, all pairs of a task, Vinyals' split, rotations as classes, running batch statistics."
)
_OTHER_LOSS = "No published number for this loss in this protocol. Settings as in siamese/omniglot-5way-1shot."
_MATCHING = (
    "Vinyals et al. 2016: no full context on Omniglot, cosine similarities without a temperature. Here: {steps} tasks "
    "of 20 classes with 5 queries each, cosine over a temperature of 0.1, Vinyals' split, rotations as classes, "
    "running batch statistics."
)
_RELATION = (
    "Sung et al. 2018: 19 queries a class, up to 1,000,000 tasks, Adam 1e-3 halved every 100,000, batch norm that sees "
    "all queries together. Here: {steps} tasks with 5 queries a class, the rate brought to 0 by a cosine, running "
    "batch statistics in the embedding and group norm in the relation module, Vinyals' split, rotations as classes "
    "(theirs: one rotation for a whole task)."
)

_GAP = "{steps} tasks, some minutes of one core, are a small part of the papers' trainings."
_SIAMESE = {"5way-5shot": "98.4 %", "20way-1shot": "88.2 %", "20way-5shot": "97.0 %"}

RECIPES: dict[str, Recipe] = {
    "siamese/omniglot-5way-1shot": Recipe(
        "are two images of one character?", SIAMESE, KOCH, "97.3 %", _PAIRS, _GAP, elsewhere=_SIAMESE
    ),
    "siamese/omniglot-lake": Recipe(
        "trained on Lake's background alphabets alone; examples/lake_runs.py judges it beside people",
        replace(SIAMESE, data_options={"split": "background"}, train=Shape(30, 1, 5), test=Shape(20, 1, 5), steps=1200),
        KOCH,
        None,
        LAKE_PROTOCOL,
    ),
    "contrastive/omniglot-5way-1shot": Recipe("the same by contrastive loss", CONTRASTIVE, HADSELL, None, _OTHER_LOSS),
    "triplet/omniglot-5way-1shot": Recipe("the same by triplets, semi-hard", TRIPLET, SCHROFF, None, _OTHER_LOSS),
    "matching/omniglot-5way-1shot": Recipe(
        "attention over the examples",
        MATCHING,
        VINYALS,
        "98.1 %",
        _MATCHING,
        _GAP,
        elsewhere={"5way-5shot": "98.9 %", "20way-1shot": "93.8 %", "20way-5shot": "98.5 %"},
    ),
    "relation/omniglot-5way-1shot": Recipe(
        "a learned metric", RELATION, SUNG, "99.6 ± 0.2 %", _RELATION, _GAP, elsewhere={"5way-5shot": "99.8 ± 0.1 %"}
    ),
}
