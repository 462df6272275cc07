"""CIFAR-FS and FC100, by every family."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.metric import SNELL
from mapsto.recipes.optimization import FINN, LI, RAGHU
from mapsto.recipes.settings import Recipe, Settings

_MAML = Settings(
    algorithm="maml",
    model="conv4",
    data="cifar-fs",
    options={"lr": 0.05, "steps": 5, "first_order": False},
    model_options={"filters": 32, "down": "pool", "stats": "transductive"},
    train=Shape(5, 1, 15),
    test=Shape(5, 1, 15),
    test_steps=10,
    steps=500,
    batch=4,
    schedule="late",
)
_FIVE = replace(_MAML, train=Shape(5, 5, 15), test=Shape(5, 5, 15), steps=600, batch=2)
_PROTOCOL = (
    "Bertinetto et al. 2019, who made the data set, report MAML on it (also in table 2 of Lee et al. 2019: four blocks "
    "of 32 filters). Here MAML's mini-ImageNet settings (Finn et al. 2017): 5 inner steps of rate 0.01 of a loss "
    "summed over 5 classes (0.05 of the mean), 10 at test, meta-batch 4 (for five shots 2), 15 queries a class, "
    "transductive batch norm; {steps} meta-steps, not 60,000, Adam's rate brought to 0 over the last quarter."
)
_GAP = "{steps} meta-steps against 60,000."
_ANIL_PROTOCOL = "The paper has no CIFAR-FS; the settings are those of MAML's recipe, with {steps} meta-steps."

_PROTONET = Settings(
    algorithm="protonet",
    model="conv4",
    data="cifar-fs",
    model_options={"filters": 64, "down": "pool", "stats": "running"},
    train=Shape(20, 1, 10),
    test=Shape(5, 1, 15),
    steps=2000,
    schedule="cosine",
    validate=200,
)
_SNELL_PROTOCOL = (
    "Bertinetto et al. 2019 report Prototypical Networks on it (also in table 2 of Lee et al. 2019: four blocks of 64 "
    "filters). Here 20-way training with {query} queries a class, Adam 1e-3 brought to 0 by a cosine, {steps} "
    "episodes, no augmentation, running batch statistics."
)
_SNELL_GAP = "{steps} episodes against tens of thousands, and no pictures mirrored, cropped or recoloured."

RECIPES: dict[str, Recipe] = {
    "maml/cifar-fs-5way-1shot": Recipe("small colour pictures", _MAML, FINN, "58.9 ± 1.9 %", _PROTOCOL, gap=_GAP),
    "maml/cifar-fs-5way-5shot": Recipe("the same with five examples", _FIVE, FINN, "71.5 ± 1.0 %", _PROTOCOL, gap=_GAP),
    "anil/cifar-fs-5way-1shot": Recipe(
        "only the head is fine-tuned",
        replace(_MAML, options={**_MAML.options, "adapts": "head."}, steps=700),
        RAGHU,
        None,
        _ANIL_PROTOCOL,
    ),
    "anil/cifar-fs-5way-5shot": Recipe(
        "the same with five examples",
        replace(_FIVE, options={**_MAML.options, "adapts": "head."}, steps=700),
        RAGHU,
        None,
        _ANIL_PROTOCOL,
    ),
    "meta-sgd/cifar-fs-5way-1shot": Recipe(
        "a learned rate for every weight",
        replace(_MAML, algorithm="metasgd", options={"lr": 0.05, "steps": 1}, test_steps=1, steps=1200),
        LI,
        None,
        "The paper has no CIFAR-FS; the settings are those of MAML's recipe, with one inner step of learned rates that "
        "begin at 0.05 and {steps} meta-steps.",
    ),
    "protonet/cifar-fs-5way-1shot": Recipe(
        "small colour pictures", _PROTONET, SNELL, "55.5 ± 0.7 %", _SNELL_PROTOCOL.replace("{query}", "10"), _SNELL_GAP
    ),
    "protonet/cifar-fs-5way-5shot": Recipe(
        "the same with five examples",
        replace(_PROTONET, train=Shape(20, 5, 5), test=Shape(5, 5, 15)),
        SNELL,
        "72.0 ± 0.6 %",
        _SNELL_PROTOCOL.replace("{query}", "5"),
        _SNELL_GAP,
    ),
}
