"""Tell two spirals apart: a small run to submit to a network, from points that the script computes.

    python -m milepost.scripts.train_spirals --name first

Records into `runs/` and ends within seconds.  Lines marked (*) are what recording adds.
"""

import argparse
import math

import torch
from torch import nn
from torch.nn import functional

import milepost  # (*)

POINTS, STEPS, EVERY, BATCH, RATE = 1_000, 400, 40, 50, 0.01


def make_spirals() -> tuple[torch.Tensor, torch.Tensor]:
    """Points float32 [POINTS, 2] on two arms, turn about, and the arm of each, int64 [POINTS]."""
    labels = torch.arange(POINTS) % 2
    radius = torch.linspace(0.1, 1.0, POINTS)
    angle = 2 * math.pi * radius + math.pi * labels
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1), labels


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", default="runs")
    arguments.add_argument("--seed", type=int, default=1, help="another seed is another run")
    options = arguments.parse_args()

    x_all, y_all = make_spirals()
    torch.manual_seed(options.seed)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loss_of = functional.cross_entropy
    run = milepost.Run(  # (*)
        options.name,
        model,
        optimizer,
        loss=loss_of,
        every=EVERY,
        folder=options.out,
        seed=options.seed,
    )
    for x, y in run.batches(x_all, y_all, batch_size=BATCH, steps=STEPS):  # (*)
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)  # (*)
    folder = run.finish()  # (*)

    with torch.no_grad():
        share = float((model(x_all).argmax(1) == y_all).float().mean())
    print(f"Recorded {STEPS} steps in {folder}; {share:.0%} of the points are told apart.")


if __name__ == "__main__":
    main()
