"""What the tests put into an index, and where the examples are."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"

KEYS = """# Signing keys

Every release is signed by two engineers.

## Rotate the signing key

Run keyctl rotate to rotate the signing key every April.

## Revoke a key

Revoke a leaked key at once with keyctl revoke.
"""
BACKUP = "The database backup is copied to cold storage every night at three.\n"
WALLS = "The walls of the office are painted white each spring.\n"
