"""Canaries: fixed texts whose vectors show whether an encoder still makes the vectors that it made before.

An encoder's identity is what it declares; canaries are what it does. The vectors of 16 probes are stored with each
version of an index and made again later: a runtime that changed under the same declaration shows, and so does a changed
declaration that changes no vector.

The probes do not depend on the encoder, so that any two runs can be compared, whatever either of them declares. Three
of them are longer than any limit up to 1,024 tokens, and change their topic at each power of two, so that another limit
is another text to the model. Limits beyond are covered by the declared identity alone: a check has to stay cheap.

What was measured with all-MiniLM-L6-v2 is in docs/canaries.md; ``tests/test_canaries.py`` measures it again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import EncodingFailed, InvalidInput
from tarragon.protocols import DenseEncoder, EncoderInput
from tarragon.types import FloatArray

PROBE_REVISION = 1
"""Raised when a probe changes. Vectors of other probes cannot be compared."""

SAME = 0.9995
"""Least minimum cosine of one and the same space: another batch size 1.000000, float16 weights .999998, bfloat16
weights .99989 (docs/canaries.md)."""

WARN = 0.999
"""Least minimum cosine that is let pass, with a warning: a limit of 254 instead of 256 tokens .9991. Below it are
a limit of 250 tokens .997, int8 .75 and an added document prompt .32 (docs/canaries.md)."""

LENGTH = 0.98
"""Least quotient of two lengths of one probe's vector: stores compare by dot product, so that lengths count where
vectors are not of unit length. bfloat16 weights keep them above .993 (docs/canaries.md)."""

LONG_WORDS = 1_088
"""Words of a long probe; each is at least one token. More than any limit up to 1,024 tokens with a prompt's room."""

Verdict: TypeAlias = Literal["same", "warn", "different"]

_SHORT = {
    "near-empty": ".",
    "word": "key",
    "lower case": "the quick brown fox jumps over the lazy dog",
    "upper case": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "sentence": "Rotate the signing key first; the old one stays valid for an hour, and then the new one signs alone.",
    "code": "def read(path: str, *, limit=8_192) -> bytes:\n\treturn open(path, 'rb').read(limit)  # [MASK] </s>",
    "digits": "3.14159 1,048,576 0xdeadbeef 2026-02-29T23:59:60Z +49 30 901820 1e-9 №7 ½",
    "Chinese and Japanese": "签名密钥每年更换一次。署名鍵は年に一度、交換する。カタカナ",
    "right to left": "مفتاح التوقيع يُستبدل كل عام. מפתח החתימה מוחלף בכל שנה.",
    "other scripts": "Ключ подписи меняют раз в год. Το κλειδί αλλάζει. हस्ताक्षर कुंजी बदलती है। กุญแจลายเซ็น 서명 키",
    "accents and normal forms": "Größe naïve café cafe\u0301 A\u030angström Ångström ﬁancé İstanbul ﷺ",
    "symbols": "🙂👩‍👩‍👧 ∀x∈ℝ: x² ≥ 0 → “quoted” — € £ ¥ © ™ … \u00a0 \u200b",
    "table": "| key | age |\n| --- | ---: |\n| a_1 |  12 |\n\n- **bold** [link](https://example.org/a?b=c#d)\n",
}

_LONG = ("beyond the limit 1", "beyond the limit 2", "beyond the limit 3")

LABELS = (*_SHORT, *_LONG)
"""What each probe is, in their order."""

_TOPICS = tuple(
    topic.split()
    for topic in (
        "river water boat bridge rain ocean fish lake wave storm island harbor",
        "court law judge crime police prison trial guilty lawyer witness verdict jury",
        "( x = y ) : return if not [ 0 ] ; else + for in { } while == import",
        "bread cheese kitchen salt oven butter recipe sugar dinner taste meat soup",
        "heart blood doctor nurse pain fever bone hospital cancer patient drug brain",
        "1 27 300 4096 0 15 8 1999 2 64 100 33",
        "war army king battle soldier sword castle enemy queen empire victory siege",
        "水 火 木 金 土 日 月 山 川 人 Ключ год",
        "music piano song dance guitar singer concert opera drum violin melody stage",
        "planet star moon galaxy orbit rocket telescope comet gravity space light sun",
        "market price bank money stock tax profit trade debt loan budget wage",
    )
)

_PACKED = re.compile(r"(\d{1,9}):(\d{1,9})x(\d{1,9}):([A-Za-z0-9+/=]*)")


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """How far two runs of the probes agree.

    Attributes:
        minimum: Least cosine over the probes, -1 to 1; -1 where the vectors cannot be compared. It decides, since a
            change that hits few texts hides in the mean.
        mean: Of the cosines.
        worst: Index of the probe with the least cosine, the first of equal ones; see `LABELS`.
        length: Least quotient of the two lengths of a probe's vector, 0 to 1.
        note: What keeps the vectors from being compared; empty if nothing does.
    """

    minimum: float
    mean: float
    worst: int
    length: float = 1.0
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """``same``: one space. ``warn``: probably one. ``different``: their vectors must not be mixed."""
        if self.length < LENGTH or self.minimum < WARN:
            return "different"
        return "same" if self.minimum >= SAME else "warn"

    @property
    def label(self) -> str:
        """What the worst probe is."""
        return LABELS[self.worst]

    def sentence(self) -> str:
        """One line for people: the verdict and the figures that it rests on."""
        if self.note:
            return f"{self.verdict}: {self.note}"
        figures = f"minimum cosine {self.minimum:.6f} at probe {self.label!r} (mean {self.mean:.6f})"
        lengths = "" if self.length >= LENGTH else f", lengths differ by a factor of {_factor(self.length)}"
        return f"{self.verdict}: {figures}{lengths}"

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, verdict and label included, ready for JSON."""
        figures = {"minimum": self.minimum, "mean": self.mean, "worst": self.worst, "length": self.length}
        return {"verdict": self.verdict, **figures, "label": self.label, "note": self.note}


@cache
def probes() -> tuple[str, ...]:
    """The 16 texts, in the order of `LABELS`. None is empty, since some encoders refuse that."""
    return (*_SHORT.values(), *(" ".join(_long_words(start)) for start in range(len(_LONG))))


def run(encoder: DenseEncoder) -> FloatArray:
    """Embed the probes as documents: shape ``(16, dimensions)``, float32. Rows may hold NaN, which `judge` refuses.

    Raises:
        EncodingFailed: The encoder does not return one row a text.
    """
    vectors = encoder.encode_documents([EncoderInput(text) for text in probes()]).vectors
    if vectors.ndim != 2 or len(vectors) != len(LABELS):
        message = (
            f"{encoder.name} returned vectors of shape {vectors.shape} for {len(LABELS)} texts; one row each is due"
        )
        raise EncodingFailed(message, model=encoder.name, shape=vectors.shape, texts=len(LABELS))
    return np.ascontiguousarray(vectors, dtype=np.float32)


def judge(stored: FloatArray, now: FloatArray) -> CanaryVerdict:
    """Compare two runs of the same probes, each of shape ``(16, dimensions)``; their order does not matter.

    Other dimensions, NaN and infinity are ``different``. Two zero vectors are equal; one has cosine 0 with any other.

    Raises:
        InvalidInput: One of them is not a run of these probes: it has no 16 rows.
    """
    for vectors in (stored, now):
        if vectors.ndim != 2 or len(vectors) != len(LABELS):
            message = f"canaries have one row for each of {len(LABELS)} probes, but these have shape {vectors.shape}"
            raise InvalidInput(f"{message}; pass what `run` or `unpack` gave", shape=vectors.shape)
    if stored.shape != now.shape:
        sizes = f"the vectors have {stored.shape[1]} and {now.shape[1]} dimensions"
        return CanaryVerdict(-1.0, -1.0, 0, 0.0, sizes)
    finite = np.isfinite(stored).all(axis=1) & np.isfinite(now).all(axis=1)
    if not finite.all():
        worst = int(np.argmin(finite))
        return CanaryVerdict(-1.0, -1.0, worst, 0.0, f"the vector of probe {LABELS[worst]!r} holds NaN or infinity")
    cosines, lengths = _compare(stored.astype(np.float64), now.astype(np.float64))
    worst = int(np.argmin(cosines))
    return CanaryVerdict(float(cosines[worst]), float(cosines.mean()), worst, float(lengths.min()))


def pack(vectors: FloatArray) -> str:
    """A run as text for JSON, exact to the bit: revision of the probes, shape, little-endian float32 in base64."""
    data = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    return f"{PROBE_REVISION}:{vectors.shape[0]}x{vectors.shape[1]}:{base64.b64encode(data).decode('ascii')}"


def unpack(text: str) -> FloatArray | None:
    """Read `pack`. None for probes of another revision, of which nothing is known here: `run` and store again.

    Raises:
        InvalidInput: `pack` did not write this.
    """
    match = _PACKED.fullmatch(text)
    if match is None:
        raise _unreadable(text, "it is not of the form revision:rows x dimensions:base64")
    revision, rows, dimensions = (int(match[group]) for group in (1, 2, 3))
    if revision != PROBE_REVISION:
        return None
    try:
        data = base64.b64decode(match[4], validate=True)
    except binascii.Error as error:
        raise _unreadable(text, str(error)) from error
    if len(data) != rows * dimensions * 4:
        raise _unreadable(text, f"{len(data)} bytes are not {rows} x {dimensions} float32")
    return np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(rows, dimensions)


def _unreadable(text: str, reason: str) -> InvalidInput:
    start = text[:40]
    return InvalidInput(f"stored canaries that start with {start!r} cannot be read: {reason}", start=start)


def _compare(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Cosine of each row, and the shorter of its two lengths over the longer."""
    lengths = np.stack([np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)])
    shorter, longer = lengths.min(axis=0), lengths.max(axis=0)
    both_zero, one_zero = longer == 0, (shorter == 0) & (longer > 0)
    scale = np.where(lengths == 0, 1.0, lengths)
    cosines = ((first / scale[0][:, None]) * (second / scale[1][:, None])).sum(axis=1)
    cosines = np.where(both_zero, 1.0, np.where(one_zero, 0.0, np.clip(cosines, -1.0, 1.0)))
    return cosines, np.where(both_zero, 1.0, shorter / np.where(longer == 0, 1.0, longer))


def _factor(quotient: float) -> str:
    return "infinity" if quotient == 0 else f"{1 / quotient:.3g}"


def _long_words(start: int) -> Iterator[str]:
    """Words whose topic changes at each power of two: half of any length lacks the topic of the other half."""
    for place in range(LONG_WORDS):
        topic = _TOPICS[(3 * start + place.bit_length()) % len(_TOPICS)]
        yield topic[(place * (start + 5) + place // len(topic)) % len(topic)]
