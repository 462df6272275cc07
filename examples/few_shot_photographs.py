"""Five photographs a class, of classes that the shipped network was never trained on: `mapsto fit`, `mapsto predict`.

`python examples/few_shot_photographs.py` writes photographs of CIFAR-100 as files, lets the functions behind the two
commands learn and recognise them for several draws of classes, and writes docs/few-shot-photographs.md and its picture,
so that every number on that page is measured. The classes are those of CIFAR-FS's test part.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mapsto.calibration import expected_calibration_error
from mapsto.data import CIFARFS, Labelled
from mapsto.estimator import encoder
from mapsto.photographs import Learned, Recognised, learn, recognise

WAY, TRAIN, NEW, DRAWS = 5, 5, 20, 10
DOCS = Path(__file__).parents[1] / "docs"
NAME = "few-shot-photographs"
RIGHT, WRONG, INK = "#009E73", "#D55E00", "#26323d"
SHOWN = 8
"""New photographs of a class in the picture."""


def main(docs: Path = DOCS) -> None:
    data = CIFARFS().test
    learn_seconds, recognise_seconds, shares, left, truths, guesses = ([] for _ in range(6))
    outcomes: list[tuple[Path, Learned, Recognised]] = []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for draw in range(DRAWS):
            folder = Path(name) / str(draw)
            write(data, np.random.default_rng(draw), folder)
            start = time.perf_counter()
            learned = learn(folder / "train", folder / "model")
            middle = time.perf_counter()
            found = recognise(folder / "model", [folder / "new"])
            learn_seconds.append(middle - start)
            recognise_seconds.append(time.perf_counter() - middle)
            truth = [file.parent.name for file in found.files]
            shares.append(mean(a == b for a, b in zip(found.labels, truth, strict=True)))
            left.append((learned.left_out or 0) / (WAY * TRAIN))
            truths.append(torch.tensor([[name == c for c in found.classes] for name in truth]).double())
            guesses.append(torch.from_numpy(found.probabilities))
            print(f"draw {draw}: {', '.join(found.classes)}: {shares[-1]:.1%} of {len(truth)} new photographs right")
            outcomes.append((folder, learned, found))
        seconds = time.perf_counter() - begin
        picture(*outcomes[0]).savefig(docs / f"{NAME}.png", dpi=110)
    first = outcomes[0][1]
    error = expected_calibration_error(torch.cat(guesses), torch.cat(truths)).item()
    values = {
        "accuracy": f"{mean(shares):.1%}",
        "interval": f"{1.96 * stdev(shares) / DRAWS**0.5:.1%}",
        "low": f"{min(shares):.0%}",
        "high": f"{max(shares):.0%}",
        "left": f"{mean(left):.1%}",
        "calibration": f"{error:.3f}",
        "learn": f"{mean(learn_seconds):.2f}",
        "recognise": f"{mean(recognise_seconds):.2f}",
        "seconds": f"{seconds:.1f}",
        "cores": os.cpu_count(),
        "total": WAY * TRAIN,
        "classes": ", ".join(first.counts),
        "network": encoder.encoder(None).name,
        "temperature": f"{first.classifier.temperature_:.3f}",
        **{"WAY": WAY, "TRAIN": TRAIN, "NEW": NEW, "DRAWS": DRAWS, "NAME": NAME, "chance": f"{1 / WAY:.0%}"},
    }
    page = TEXT.format(**{key: str(value).replace("%", " %") for key, value in values.items()})
    (docs / f"{NAME}.md").write_text(page)
    print(f"accuracy {values['accuracy']} ± {values['interval']}, calibration error {values['calibration']}")
    print(f"{DRAWS} draws in {values['seconds']} s; wrote {docs / NAME}.md and .png")


def write(data: Labelled, rng: np.random.Generator, folder: Path) -> None:
    """Photographs of some classes as files, `train/<class>/<number>.png` and `new/<class>/<number>.png`."""
    for label in rng.choice(len(data.names), WAY, replace=False):
        rows = rng.choice(np.flatnonzero(data.y == label), TRAIN + NEW, replace=False)
        for number, row in enumerate(rows):
            place = folder / ("train" if number < TRAIN else "new") / data.names[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.x[int(row)].permute(1, 2, 0).numpy()).save(place / f"{number:02d}.png")


def picture(folder: Path, learned: Learned, found: Recognised) -> Figure:
    """A row a class: the photographs learned from, then new ones, each with what was said of it."""
    figure = Figure(figsize=(TRAIN + SHOWN + 0.6, 1.3 * WAY), layout="constrained")
    grid: Any = figure.subplots(WAY, TRAIN + 1 + SHOWN, gridspec_kw={"width_ratios": [1] * TRAIN + [0.3] + [1] * SHOWN})
    for axis in grid.flat:
        axis.axis("off")
    answers = dict(zip(found.files, zip(found.labels, found.probabilities.max(1), strict=True), strict=True))
    for row, name in enumerate(learned.counts):
        for axis, file in zip(grid[row], sorted((folder / "train" / name).iterdir()), strict=False):
            axis.imshow(Image.open(file))
        grid[row, 0].set_title(name.replace("_", " "), loc="left", size=11, color=INK, weight="bold")
        for axis, file in zip(grid[row, TRAIN + 1 :], sorted((folder / "new" / name).iterdir()), strict=False):
            label, probability = answers[file]
            color = RIGHT if label == name else WRONG
            axis.imshow(Image.open(file))
            line = "solid" if label == name else "dashed"
            axis.add_patch(Rectangle((-0.5, -0.5), 32, 32, fill=False, color=color, linewidth=3, linestyle=line))
            axis.set_title(f"{str(label).replace('_', ' ')}\n{probability:.0%}", size=8, color=color)
    return figure


TEXT = """<!-- Written by examples/few_shot_photographs.py, which measures the numbers: change that file. -->
# Five photographs a class

You have {TRAIN} photographs of each of {WAY} things and want a program that tells them apart. No training run, no GPU:

```
pip install '.[sklearn]'       # in a checkout of mapsto
mapsto fit MY_PICTURES --out my-model
mapsto predict my-model NEW_PICTURES
```

`MY_PICTURES` holds a sub-folder for each class, whose name is the class's. Pictures may differ in size and be grey,
coloured or transparent (what is transparent becomes white). One that can't be read is left out and named; `--strict`
refuses it instead. `mapsto predict` takes files and folders; `--json` prints one JSON object, `--reject 0.5` answers
"none of these" where no class has that probability.

## How good is it?

`python examples/few_shot_photographs.py` takes photographs of CIFAR-100, 32 x 32 pixels, of classes that the shipped
network (`{network}`) was never trained on. Of {WAY} classes it writes {TRAIN} photographs each to learn from and {NEW}
new ones each to be recognised, as PNG files, and calls what the two commands call; all that {DRAWS} times, with other
classes each time:

| | |
| --- | --- |
| new photographs recognised | {accuracy} ± {interval} (95 % interval over {DRAWS} draws; chance is {chance}) |
| worst and best draw | {low}, {high} |
| what `mapsto fit` itself said beforehand, leaving out each of its {total} photographs in turn | {left} |
| expected calibration error of the probabilities | {calibration} |
| seconds to fit, to predict {NEW} x {WAY} | {learn}, {recognise} |
| seconds for everything | {seconds}, on {cores} CPU cores |

The first draw: left, all that was learned from; right, the first new photographs of the class, with what was said of
them and its probability. Green: right. Dashed orange: wrong.

![Photographs of {classes}]({NAME}.png)

## The same in Python

```python
from sklearn.svm import SVC

from mapsto.estimator import FeatureExtractor, FewShotClassifier

classifier = FewShotClassifier().fit(pictures, labels)           # arrays [n, h, w, 3], files, or Pillow's images
classifier.predict(new), classifier.predict_proba(new)
classifier.partial_fit(more_pictures, more_labels)               # another class, or another example, later
classifier.save("my-model")                                      # safetensors and JSON, no pickle

FewShotClassifier("timm:resnet18")                               # another network: pip install timm
FewShotClassifier("runs/protonet", base=SVC())                   # one that you trained, and another classifier
FeatureExtractor("hf:facebook/dinov2-small").fit_transform(new)  # the features alone
FewShotClassifier("runs/protonet").calibrate(validation_tasks)   # probabilities to be trusted
```

## What it is, and is not

- The default classifier is multinomial logistic regression on features of length 1
  ([Tian et al. 2020](https://arxiv.org/abs/2003.11539)), in units of their spread; every class weighs the same.
- Probabilities are divided by a temperature ({temperature} here), found on tasks of validation classes
  ([Guo et al. 2017](https://arxiv.org/abs/1706.04599)) with 5 classes and 1, 5 or 20 examples each. For other features
  than the shipped ones there is none until you call `calibrate`.
- The shipped network sees 32 x 32 pixels. For photographs with detail, a network trained on millions of pictures is far
  better: `mapsto fit MY_PICTURES --out my-model --backbone timm:resnet18`.
- `--reject` goes by the probabilities of the classes known. A picture of something else altogether may still get a high
  one.
"""

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
