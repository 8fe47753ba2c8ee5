"""Digests, and the measured part of README.md."""

import hashlib

import numpy as np

from contract import answer, load
from dataset import entropy, variants

BEGIN = "<!-- measured: written by train.py -->"
END = "<!-- end of measured -->"
COVERED = ("models/", "cases/")
RULE_THRESHOLDS = (0.3, 0.7)


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def checksums(files: dict[str, bytes]) -> bytes:
    """The text that `sha256sum` writes, over models and cases."""
    covered = sorted(path for path in files if path.startswith(COVERED))
    return "".join(f"{sha256(files[path])}  {path}\n" for path in covered).encode()


def accuracies(model: bytes, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of right labels on each variant of the test images."""
    session = load(model)
    return {name: float((answer(session, changed)[1] == labels).mean()) for name, changed in variants(images).items()}


def entropy_line(images: np.ndarray) -> str:
    """How the complexity that the default rules look at is distributed."""
    values = np.array([entropy(image) for image in images])
    least, *deciles, greatest = np.percentile(values, range(0, 101, 10))
    low, high = ((values < threshold).mean() for threshold in RULE_THRESHOLDS)
    return (
        f"Entropy of the clean test images (least, deciles, greatest): {least:.3f}, "
        + " ".join(f"{decile:.3f}" for decile in deciles)
        + f", {greatest:.3f}; {low:.1%} are below {RULE_THRESHOLDS[0]}, {high:.1%} below {RULE_THRESHOLDS[1]}."
    )


def measured(files: dict[str, bytes], images: np.ndarray, labels: np.ndarray) -> str:
    """The tables that stand between the README's markers."""
    covered = {path: content for path, content in files.items() if path.startswith(COVERED)}
    names = list(variants(images[:1]))
    lines = [f"| model | {' | '.join(names)} | bytes |", "|---" * (len(names) + 2) + "|"]
    for path, content in covered.items():
        if not path.startswith("models/"):
            continue
        shares = accuracies(content, images, labels).values()
        name = path.removeprefix("models/").removesuffix(".onnx")
        lines.append(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} | {len(content):,} |")
    lines += ["", entropy_line(images), "", "| file | sha256 |", "|---|---|"]
    lines += [f"| {path} | `{sha256(content)}` |" for path, content in covered.items()]
    return "\n".join(lines)


def with_measured(readme: str, text: str) -> str:
    """The README with its measured part replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
