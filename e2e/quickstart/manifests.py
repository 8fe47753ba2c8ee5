"""The manifests that the agents follow, and the digests in them."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Iterator

from checkout import DIGITS, MANIFESTS, ROOT
from ports import DEFAULT_PORT, Ports, url
from words import Failure, say

# A source in a manifest: its path below the file root, and the digest it is pinned by.
SOURCE = re.compile(r"(uri: file:///(?P<path>\S+)\n\s*(?:#.*\n\s*)*sha256: )(?P<sha256>\S+)")


def published_digests() -> dict[str, str]:
    lines = (DIGITS / "SHA256SUMS").read_text().splitlines()
    return {path: sha256 for sha256, path in (line.split() for line in lines)}


def pinned(manifest: str, digests: dict[str, str]) -> str:
    """The manifest with the digest that each of its sources has."""

    def with_digest(source: re.Match[str]) -> str:
        path = source["path"]
        if path not in digests:
            raise Failure(f"e2e/digits/SHA256SUMS does not list {path}: train again with `make digits`")
        return source[1] + digests[path]

    return SOURCE.sub(with_digest, manifest)


def unpinned_manifests() -> Iterator[tuple[pathlib.Path, str]]:
    """Manifests whose digests are not those of SHA256SUMS, with what they should be."""
    digests = published_digests()
    for path in sorted(MANIFESTS.glob("*/*.yaml")):
        text = path.read_text()
        should_be = pinned(text, digests)
        if should_be != text:
            yield path, should_be


def pin_manifests() -> None:
    for path, text in unpinned_manifests():
        path.write_text(text)
        say(f"pinned {path.relative_to(ROOT)}")


def check_digests() -> None:
    wrong = [str(path.relative_to(ROOT)) for path, _ in unpinned_manifests()]
    if wrong:
        raise Failure(
            f"the digests in {', '.join(wrong)} are not those in e2e/digits/SHA256SUMS.\n"
            "Undo what was changed there or, where the digits were trained again: python3 e2e/quickstart --pin"
        )


def copy_manifests(to: pathlib.Path, ports: Ports) -> None:
    """A copy that may be edited while agents follow it, with the ports of this run."""
    shutil.copytree(MANIFESTS, to)
    for policy in (to / "device").glob("*.yaml"):
        text = policy.read_text()
        for tier in ("edge", "cloud"):
            text = text.replace(url(Ports(DEFAULT_PORT).data(tier)), url(ports.data(tier)))
        policy.write_text(text)


def name_better_model(device: pathlib.Path) -> None:
    """What an author does to update a model: another artifact and its digest in the manifest, written in one go."""
    manifest = device / "digits.yaml"
    text = manifest.read_text().replace("/digits-device.", "/digits-device-r2.")
    new = manifest.with_suffix(".new")
    new.write_text(pinned(text, published_digests()))
    new.rename(manifest)
