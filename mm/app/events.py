"""How what a user does reaches the library: one at a time for each run, and what is wrong comes back as a message."""

from __future__ import annotations

import functools
import html
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mm.app.media import check_upload

ADDRESSEE = (OSError, ValueError, LookupError)  # errors that a user can put right, as the scripts have it
SHOWN_S = 20  # seconds that a message stays
LONGEST_SAID = 400  # letters of a message
UPLOADS = "GRADIO_TEMP_DIR"  # environment variable: the folder in which Gradio keeps what is uploaded


def on(
    trigger: Callable, function: Callable, inputs: Sequence, outputs: Sequence, of: str = "", **options: Any
) -> None:
    """Call a function when something happens; where it fails, what it showed before is taken away.

    Args:
        trigger: of a component of Gradio, such as `button.click`.
        function: inputs -> outputs.
        inputs: components.
        outputs: components.
        of: what may do one thing at a time: the path of a run, or "" for what needs none.
        options: further ones of the trigger.
    """
    import gradio

    event = trigger(
        told(function),
        list(inputs),
        list(outputs),
        concurrency_id=of or None,
        api_visibility="private",
        **options,
    )
    for output in outputs:
        if isinstance(output, gradio.HTML):  # others are covered by the word "Error"
            event.failure(None, None, [output], js="() => ''", api_visibility="private")


def told(function: Callable) -> Callable:
    """The function, whose errors that a user can put right become a message in the page."""
    import gradio

    @functools.wraps(function)
    def asked(*given: Any) -> Any:
        try:
            for file in files_of(given):
                check_upload(file)
            return function(*given)
        except ADDRESSEE as error:
            raise gradio.Error(message(error), duration=SHOWN_S, print_exception=False) from None

    return asked


def files_of(given: Any) -> Iterator[str]:
    """The uploads among what components of a page gave: see `mm.app.inputs.paths_of`."""
    if isinstance(given, str):
        kept = os.environ.get(UPLOADS)
        yield from [given] if kept and given.startswith(f"{kept}/") else []
    elif isinstance(given, dict):
        yield from files_of(given.get("files"))
    elif isinstance(given, list | tuple):
        for one in given:
            yield from files_of(one)


def message(error: Exception) -> str:
    """What an error says, as HTML; of a long one its beginning and its end."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    text = named(text)
    half = LONGEST_SAID // 2
    return html.escape(text if len(text) <= LONGEST_SAID else f"{text[:half]} … {text[-half:]}")


def named(text: str) -> str:
    """A text in which uploads are called by their names, not by where they are kept meanwhile."""
    kept = os.environ.get(UPLOADS, "")  # within it each file lies in a folder that is named by a digest
    return re.sub(re.escape(kept) + "/[0-9a-f]+/", "", text) if kept else text
