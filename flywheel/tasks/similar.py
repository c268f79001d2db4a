"""Finds near-duplicates of prose: MinHash signatures in a locality-sensitive index (datasketch), bounded in size.

Two texts are near-duplicates where the Jaccard similarity of their five-word shingles, as MinHash estimates it, reaches a threshold.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from flywheel.canonical import words

NUM_PERMUTATIONS = 64
SHINGLE = 5
_TEMPLATE = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)  # its permutations take longer to make than a signature


class SimilarTexts:
    """Texts by name; beyond `max_texts` the oldest is forgotten.

    Args:
        threshold: Similarity from which a text is a near-duplicate.
        max_texts: Most texts.
    """

    def __init__(self, *, threshold: float, max_texts: int) -> None:
        self._threshold = threshold
        self._max_texts = max_texts
        # What the index misses nobody sees; what it finds is compared again.
        self._index = MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS, weights=(0.1, 0.9))
        self._signatures: OrderedDict[str, NDArray[np.uint32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._signatures)

    def add(self, name: str, text: str) -> None:
        """Remember a text; a name that is known keeps its first one."""
        if name in self._signatures:
            return
        signature = signature_of(text)
        self._signatures[name] = signature.hashvalues.astype(np.uint32)
        self._index.insert(name, signature, check_duplication=False)
        if len(self._signatures) > self._max_texts:
            oldest, _ = self._signatures.popitem(last=False)
            self._index.remove(oldest)

    def nearest(self, text: str, *, but: str | None = None) -> str | None:
        """Return the name of the most similar near-duplicate, leaving out the name `but`; None where there is none."""
        signature = signature_of(text)
        scored = [
            (float(np.mean(self._signatures[name] == signature.hashvalues)), name) for name in self._index.query(signature) if name != but
        ]
        best = max(scored, default=(0.0, ""))
        return best[1] if best[0] >= self._threshold else None


def signature_of(text: str) -> MinHash:
    """Return the MinHash signature of a text's shingles."""
    found = words(text)
    shingles = {" ".join(found[at : at + SHINGLE]).encode() for at in range(max(1, len(found) - SHINGLE + 1))}
    signature = _TEMPLATE.copy()
    signature.update_batch(sorted(shingles))
    return signature


def ngram_hashes(text: str, n: int) -> set[int]:
    """Return 8-byte hashes of a text's n-grams of words; a shorter text is one n-gram."""
    found = words(text)
    grams = (" ".join(found[at : at + n]) for at in range(max(1, len(found) - n + 1)))
    return {int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest()) for gram in grams}


def jaccard(first: set[int], second: set[int]) -> float:
    """Return the share of two sets' elements that both have; 0 for empty ones."""
    return len(first & second) / max(1, len(first | second))
