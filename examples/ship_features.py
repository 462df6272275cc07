"""Make the weights that the package ships of a finished run: `python examples/ship_features.py RUN`.

RUN is a run of images with running norm statistics, of a learner whose model embeds. Weights are stored in 16 bits. The
temperatures, one for each of three numbers of examples a class, are fitted on validation tasks with the stored weights;
accuracy and calibration are then measured on test tasks, and kept beside the weights.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mapsto import build
from mapsto.calibration import expected_calibration_error
from mapsto.data import Tasks
from mapsto.estimator import FewShotClassifier, encoder
from mapsto.finished import read_config
from mapsto.metrics import accuracy

WAY, SHOTS, QUERIES, TASKS = 5, (1, 5, 20), 15, 200


def main(run: Path, assets: Path = encoder.ASSETS) -> None:
    config, settings = read_config(run)
    images = build.images(settings)
    made = replace(encoder.from_run(run), name=encoder.SHIPPED)
    encoder.write(made, assets, encoder.SHIPPED, half=True)
    stored = encoder.read(assets, encoder.SHIPPED)
    temperatures, measured = {}, {}
    for shot in SHOTS:
        tasks = {part: Tasks(images[part], WAY, shot, QUERIES, seed=1) for part in ("val", "test")}
        classifier = FewShotClassifier(stored).calibrate(tasks["val"], TASKS)
        logits, y = classifier.answers(tasks["test"], TASKS)
        other, _ = FewShotClassifier(stored, "centroid").answers(tasks["test"], TASKS)
        assert classifier.temperature is not None
        temperatures[shot] = round(classifier.temperature, 4)
        measured[str(shot)] = {
            "accuracy": round(accuracy(logits, y).item(), 4),
            "accuracy of centroid": round(accuracy(other, y).item(), 4),
            "calibration error": round(
                expected_calibration_error((logits / temperatures[shot]).softmax(1), y).item(), 4
            ),
            "calibration error without temperature": round(expected_calibration_error(logits.softmax(1), y).item(), 4),
        }
        print(f"{WAY}-way {shot}-shot: temperature {temperatures[shot]}, {measured[str(shot)]}", flush=True)
    about = {
        "trained": {"recipe": config["recipe"], "command": config["command"], "steps": settings.steps},
        "measured": {"tasks": TASKS, "way": WAY, "queries": QUERIES, "data": settings.data, "by shot": measured},
    }
    encoder.write(replace(made, temperatures=temperatures), assets, encoder.SHIPPED, half=True, about=about)
    weights = assets / f"{encoder.SHIPPED}.safetensors"
    print(f"{weights}: {weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
