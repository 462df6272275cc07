"""In-context transformers."""

from mapsto.episode import Shape
from mapsto.recipes.settings import Paper, Recipe, Settings

KIRSCH = Paper("Kirsch, Harrison, Sohl-Dickstein & Metz", "2022", "https://arxiv.org/abs/2212.04458")
FIFTY = Paper("Fifty et al.", "ICLR 2024", "https://arxiv.org/abs/2310.10971")
MULLER = Paper("Müller et al.", "ICLR 2022", "https://arxiv.org/abs/2112.10510")
HOLLMANN = Paper("Hollmann et al.", "ICLR 2023", "https://arxiv.org/abs/2207.01848")

_GPICL = Settings(
    algorithm="gpicl",
    model="none",
    data="projections",
    data_options={"of": "digits", "tasks": 16384},
    options={"width": 64, "depth": 2, "heads": 4},
    train=Shape(10, 5, 5),
    test=Shape(10, 5, 5),
    steps=3000,
    batch=16,
    schedule="cosine",
    validate=1000,
)

_CAML = Settings(
    algorithm="caml",
    model="run:runs/protonet-omniglot-5way-1shot",
    data="omniglot",
    options={"label": 64, "depth": 4, "heads": 4},
    train=Shape(5, 1, 5),
    test=Shape(5, 1, 15),
    steps=2000,
    batch=4,
    lr=1e-4,
    schedule="cosine",
    clip=1.0,
    validate=1000,
)

_TABLES = Settings(
    algorithm="pfn",
    model="none",
    data="tables",
    options={"max_inputs": 20, "max_way": 10, "width": 64, "depth": 4, "heads": 4},
    train=Shape((2, 10), (24, 128), 64),
    test=Shape((2, 10), 100, 64),
    steps=7000,
    batch=16,
    schedule="cosine",
    clip=1.0,
    validate=1000,
)

_GP = Settings(
    algorithm="barpfn",
    model="none",
    data="gaussian-process",
    data_options={"kernel": "rbf", "length": 0.4, "scale": 1.0, "noise": 0.1},
    options={"bars": 100, "scale": 1.0, "width": 64, "depth": 4, "heads": 4},
    train=Shape(1, (1, 30), 30),
    test=Shape(1, (1, 30), 30),
    steps=5000,
    batch=16,
    schedule="cosine",
    clip=1.0,
    metric="loss",
    validate=2000,
)

RECIPES: dict[str, Recipe] = {
    "gpicl/digits": Recipe(
        "learning itself is learned, from random projections of digits",
        _GPICL,
        KIRSCH,
        None,
        "The paper's tasks are of MNIST and others, in sequences of 100 examples; it shows curves, no number for this "
        "job. Here 16,384 random projections with shuffled labels of 8x8 digits; tested on new ones and held-out "
        "images.",
    ),
    "caml/omniglot-5way-1shot": Recipe(
        "frozen features, and a transformer that reads query and support together",
        _CAML,
        FIFTY,
        None,
        "The paper has no Omniglot: its features are CLIP's and its encoder is large, trained on four data sets and "
        "tested on others. Here the features are those of the finished run protonet/omniglot-5way-1shot, frozen, and "
        "an encoder of 4 blocks learns from the same training classes in {steps} meta-steps of 4 tasks.",
    ),
    "pfn/tables": Recipe(
        "classify the rows of small tables without training on them",
        _TABLES,
        HOLLMANN,
        None,
        "The paper judges on real tables; so does docs/tables.md. This score is that of new tables of the simplified "
        "prior, 100 labelled rows. The paper: 12 layers of width 512, 18,000 steps of 512 tables; here 4 of width 64, "
        "{steps} steps of 16.",
    ),
    "bar-pfn/gp-rbf": Recipe(
        "Bayesian regression by one look",
        _GP,
        MULLER,
        None,
        "The paper compares with the exact posterior of the Gaussian process that it is trained on, in curves; so does "
        "docs/tables.md. Here a fixed RBF kernel of length 0.4 and noise 0.1, 1 to 30 points, 100 "
        "bars, {steps} steps of 16 functions.",
    ),
}
