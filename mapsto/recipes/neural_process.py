"""Functions from a few points, by neural processes."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.settings import Paper, Recipe, Settings

CONDITIONAL = Paper("Garnelo et al.", "ICML 2018", "https://arxiv.org/abs/1807.01613")
LATENT = Paper("Garnelo et al.", "workshop of ICML 2018", "https://arxiv.org/abs/1807.01622")
ATTENTIVE = Paper("Kim et al.", "ICLR 2019", "https://arxiv.org/abs/1901.05761")

CNP = Settings(
    algorithm="cnp",
    model="none",
    data="gaussian-process",
    options={"width": 128},
    data_options={"kernel": "rbf"},
    train=Shape(1, (3, 47), 50),
    test=Shape(1, (3, 47), 50),
    steps=20_000,
    batch=16,
    schedule="cosine",
    metric="log_likelihood",
    validate=2000,
)
_PROTOCOL = (
    "The papers show curves. Here their reference code's network (width 128, deviations of at least 0.1) on functions "
    "of an RBF kernel whose length scale (0.1 to 0.6) and deviation (0.1 to 1) differ from task to task, noise 0.02, 3 "
    "to 47 context points and 50 others to tell; {steps} meta-steps of 16 tasks, Adam 1e-3 (there 1e-4, and longer) "
    "brought to 0 by a cosine. The score is nats a query point, context points not among them; the exact posterior's "
    "is in results/studies/gp-gap.json."
)
_PIXELS = (
    "The papers have faces and digits. Here letters: trained on Latin and Greek, tested on Armenian and Georgian; "
    "{what}, {{steps}} meta-steps of 16 pictures, Adam 1e-3 brought to 0 by a cosine. The score is nats a pixel."
)
_COMPLETION = replace(
    CNP,
    data="completion",
    data_options={"of": "glyphs"},
    train=Shape(1, (10, 200), 200),
    test=Shape(1, (10, 200), 200),
    steps=6000,
)

RECIPES: dict[str, Recipe] = {
    "cnp/gp-rbf": Recipe("functions from a few points, with a band of doubt", CNP, CONDITIONAL, None, _PROTOCOL),
    "np/gp-rbf": Recipe(
        "the same with one latent code for the whole function",
        replace(CNP, algorithm="np", steps=20_000),
        LATENT,
        None,
        _PROTOCOL,
    ),
    "anp/gp-rbf": Recipe(
        "the same with attention to the points that matter",
        replace(CNP, algorithm="anp", steps=20_000),
        ATTENTIVE,
        None,
        _PROTOCOL,
    ),
    "cnp/glyphs-completion": Recipe(
        "pictures from some of their pixels",
        _COMPLETION,
        CONDITIONAL,
        None,
        _PIXELS.format(what="10 to 200 of 784 pixels given and 200 others to tell"),
    ),
    "anp/glyphs-completion": Recipe(
        "the same with attention",
        replace(
            _COMPLETION, algorithm="anp", train=Shape(1, (10, 100), 100), test=Shape(1, (10, 100), 100), steps=6000
        ),
        ATTENTIVE,
        None,
        _PIXELS.format(what="10 to 100 of 784 pixels given and 100 others to tell"),
    ),
}
