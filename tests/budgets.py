# ruff: noqa: T201  # figures for a person
"""Rates and byte budgets of a trained model for every rate, on many images. By hand:

    PYTHONPATH=scripts:tests python tests/budgets.py CONFIG FOLDER --images 500

Prints on how many images the payload shrinks from each level, and each of the five published β, to
the next; of some budgets, how many payloads are over and how much of the budget is used where the
next finer level does not fit; and what the search costs beside a plain encode. Exit code 1 if a
payload is over its budget, not the finest that fits, or larger at a coarser level.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

import ladon
from ladon.codec.rates import BudgetError
from ladon.images import open_image
from ladon.split.prediction import find_files

BETAS = (0.32, 1.28, 5.12, 10.24, 20.48)


def sizes_of(model, fitted) -> list[int]:
    """Bytes as sent of one image at every level."""
    betas = [model.rates.beta(level) for level in range(model.rates.levels)]
    return [len(model.encode_fitted(fitted, rate=beta).to_bytes()) for beta in betas]


def of_levels(model, sizes: np.ndarray) -> bool:
    """Print how sizes [N, L] fall; return whether none rises."""
    levels = [model.rates.level(beta) for beta in BETAS]
    fall = (np.diff(sizes[:, levels]) < 0).all(1)
    print(f"the five β: sizes strictly fall on {int(fall.sum())} of {len(sizes)} images")
    print(f"  mean bytes: {', '.join(f'{n:.0f}' for n in sizes[:, levels].mean(0))}")
    steps = np.diff(sizes)
    rises = int((steps > 0).sum())
    print(
        f"all {sizes.shape[1]} levels: of {steps.size} steps {int((steps < 0).sum())} are to fewer "
        f"bytes, {int((steps == 0).sum())} to as many, {rises} to more"
    )
    return rises == 0


def of_budget(model, fitted: Sequence, sizes: np.ndarray, budget: int) -> bool:
    """Print what a budget of bytes comes to; return whether all is as promised."""
    used, impossible, wrong = [], 0, 0
    for one, own in zip(fitted, sizes, strict=True):
        try:
            payload = model.encode_fitted(one, max_bytes=budget)
        except BudgetError:
            impossible += 1
            wrong += bool((own <= budget).any())
            continue
        size = len(payload.to_bytes())
        finest = int(np.argmax(own <= budget))
        wrong += size > budget or size != own[payload.rate] or payload.rate != finest
        if payload.rate > 0:
            used.append(size / budget)
    share = f"{np.mean(used):.3f} (least {min(used):.3f}) of it used" if used else "never the limit"
    fit = len(fitted) - impossible
    print(
        f"{budget} bytes: {fit} images fit, {wrong} over or not the finest; {share} by {len(used)}"
    )
    return wrong == 0


def cost(model, fitted: Sequence, budgets: Sequence[int]) -> None:
    """Print the time of an encode within a budget over a plain one, image by image."""
    ratios = []
    for number, one in enumerate(fitted):
        budget = budgets[number % len(budgets)]
        seconds = []
        for options in ({}, {"max_bytes": budget}):
            start = time.perf_counter()
            try:
                model.encode_fitted(one, **options)
            except BudgetError:
                break
            seconds.append(time.perf_counter() - start)
        if len(seconds) == 2:
            ratios.append(seconds[1] / seconds[0])
    low, middle, high = np.percentile(ratios, [5, 50, 95])
    print(f"an encode within a budget takes {middle:.2f} ({low:.2f}-{high:.2f}) x a plain one's")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--budgets", type=int, nargs="+", help="(default: six by the sizes found)")
    parser.add_argument("--data_root")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    args = parser.parse_args()
    files = find_files([args.folder])
    files = files[:: max(1, len(files) // args.images)][: args.images]
    options = {"assignments": args.assignments, "data_root": args.data_root}
    with ladon.load(args.config, **options) as model:
        fitted = [model.fit(open_image(file)) for file in files]
        sizes = np.array([sizes_of(model, one) for one in fitted])
        good = [of_levels(model, sizes)]
        means = sizes.mean(0)
        budgets = args.budgets or np.geomspace(means[-1] * 1.1, means[0] * 0.9, 6).astype(int)
        good += [of_budget(model, fitted, sizes, int(budget)) for budget in budgets]
        cost(model, fitted, budgets)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
