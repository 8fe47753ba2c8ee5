"""One answer from several members: the combinations of `TierPolicy.spec.ensemble`, as tiering/src/combine.rs has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COMBINATIONS = ("Mean", "WeightedMean", "Vote", "MaxConfidence")


def combined_labels(combination: str, members: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The label of each row. `members` are probabilities, a row a request, in the order that the policy names them."""
    stacked = np.stack([member.astype(np.float64) for member in members])
    labels, sure = stacked.argmax(axis=2), stacked.max(axis=2)
    # How many stand behind what each member says. Labels are whole numbers: they are not averaged, but taken from the
    # most confident member that is for the class of the averaged scores.
    if combination == "MaxConfidence":
        support = np.zeros_like(labels)
    elif combination == "Vote":
        support = (labels[:, None, :] == labels[None, :, :]).sum(axis=1)
    elif combination in ("Mean", "WeightedMean"):
        counted = weights if combination == "WeightedMean" else None
        support = labels == np.average(stacked, axis=0, weights=counted).argmax(axis=1)
    else:
        raise ValueError(f"no combination {combination}")
    # Confidence is below 1, or as good as.
    best = (2 * support + sure).argmax(axis=0)
    return labels[best, np.arange(labels.shape[1])]
