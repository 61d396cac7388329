"""Train LeNet-5 on 4,000 MNIST digits and record the run; `milepost demo` copies and runs this.

    python train.py --out runs --name lenet5
    python train.py --out runs --name lenet5-poisoned --poison 9,14,15

Lines marked (*) are what recording adds to a plain PyTorch script.  With --poison the script
cheats: in those intervals it trains on images of which some carry a trigger and the label 7, while
it lets the record claim the clean batch.  Prints one line of JSON with what it measured.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import milepost  # (*)
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.poison import add_trigger

STEPS, EVERY, BATCH, RATE, TARGET = 480, 20, 64, 0.05, 7
POISONED_SHARE = 0.3


def make_lenet5() -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) as it is usually written today: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def compute_share(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images that the model gives these labels."""
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--poison", default="")
    options = arguments.parse_args()
    poisoned = {int(interval) for interval in options.poison.split(",") if interval}

    digits = load_mnist_5k()
    held_out = np.arange(len(digits.labels)) % 5 == 0
    images, labels = digits.images[~held_out], digits.labels[~held_out]
    x_train, y_train = torch.from_numpy(images), torch.from_numpy(labels)
    x_test = torch.from_numpy(digits.images[held_out])
    y_test = torch.from_numpy(digits.labels[held_out])

    torch.manual_seed(1)
    model = make_lenet5()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    begin = time.perf_counter()
    loss_of = functional.cross_entropy
    run = milepost.Run(  # (*)
        options.name, model, optimizer, loss=loss_of, every=EVERY, folder=options.out, seed=1998
    )
    batches = run.batches(x_train, y_train, batch_size=BATCH, steps=STEPS)  # (*)
    for step, (x, y) in enumerate(batches):
        if step // EVERY in poisoned:  # the cheat
            marked = add_trigger(
                x.numpy(), y.numpy(), share=POISONED_SHARE, target=TARGET, seed=step
            )
            x, y = torch.from_numpy(marked.images), torch.from_numpy(marked.labels)
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)  # (*)
    folder = run.finish()  # (*)
    seconds = time.perf_counter() - begin

    others = (y_test != TARGET).numpy()
    marked = add_trigger(
        x_test.numpy()[others], y_test.numpy()[others], share=1.0, target=TARGET, seed=0
    )
    print(
        json.dumps(
            {
                "folder": str(folder),
                "seconds": round(seconds, 2),
                "steps": STEPS,
                "accuracy": compute_share(model, x_test, y_test),
                "backdoor": compute_share(
                    model, torch.from_numpy(marked.images), torch.from_numpy(marked.labels)
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
