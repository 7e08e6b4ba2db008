"""Prompts from plain files, so that they can be read, compared and replaced.

Those that come with the package lie in ``prompts/``. A folder of your own may hold some of the same names; what it
lacks is taken from the package. Places are written ``$question``, a dollar sign ``$$``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from tarragon.errors import InvalidInput
from tarragon.identity import digest


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with places to fill.

    Attributes:
        name: Of its file, without the suffix.
        text: As the file has it.
        digest: Of the text, in hexadecimal: results of two prompts are not the same results.
    """

    name: str
    text: str
    digest: str

    def filled(self, **values: str) -> str:
        """With every place filled. Whatever a value holds is not a place again.

        Raises:
            InvalidInput: The prompt has a place that is not known.
        """
        try:
            return Template(self.text).substitute(values)
        except (KeyError, ValueError) as error:
            places = ", ".join(f"${name}" for name in values)
            raise InvalidInput(
                f"the prompt {self.name}.txt cannot be filled ({error}); it may hold {places}, and $$ for a dollar sign"
            ) from error


def load_prompt(name: str, folder: str | Path | None = None) -> Prompt:
    """A prompt by its name, from the folder if it is there, else from the package.

    Raises:
        InvalidInput: The folder does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InvalidInput(f"{folder} is no folder; prompts of your own lie in one, named as those of the package")
    own = Path(folder, f"{name}.txt") if folder is not None else None
    if own is not None and own.is_file():
        text = own.read_text(encoding="utf-8")
    else:
        text = files("tarragon.evaluation").joinpath(f"prompts/{name}.txt").read_text(encoding="utf-8")
    return Prompt(name, text, digest("prompt", text).hex())


def numbered(passages: Sequence[str]) -> str:
    """Passages as prompts show them, numbered from 1."""
    return "\n\n".join(f"[{number}]\n{text.strip()}" for number, text in enumerate(passages, start=1))
