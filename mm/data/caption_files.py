"""Captions in COCO's JSON files: what a model says (results) and what people said (references), and how they pair up.

Formats: the COCO caption evaluation server (Chen et al. 2015) and Karpathy's `dataset_<name>.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mm.data.item import parts
from mm.files import read_json, write_json
from mm.naming import hint

Id: TypeAlias = int | str


def write_results(path: str | Path, captions: Mapping[Id, str]) -> None:
    """Write what a model says as COCO results: [{"image_id": ..., "caption": ...}, ...].

    Args:
        path: of the JSON file; written beside and renamed.
        captions: sentence by image id, at least one.

    Raises:
        ValueError: no captions.
    """
    if not captions:
        raise ValueError(f"results must hold at least one caption: got none for {path}. Caption an image first.")
    write_json(path, [{"image_id": image, "caption": caption} for image, caption in captions.items()])


def read_results(path: str | Path) -> dict[Id, str]:
    """Sentence by image id, in the order of the file. A sentence may be empty: a model may say nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or empty, an entry is no {"image_id": ..., "caption": ...}, or an image comes twice.
    """
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        got = "an empty list" if rows == [] else type(rows).__name__
        raise ValueError(f'{path} must hold a list of {{"image_id": ..., "caption": ...}}, at least one: got {got}.')
    captions: dict[Id, str] = {}
    for number, row in enumerate(rows):
        image, caption = _entry(row, f"{path}: entry {number}")
        if image in captions:
            times = sum(isinstance(row, dict) and row.get("image_id") == image for row in rows)
            raise ValueError(
                f"{path}: entry {number}: an image must have one caption: image_id {image!r} comes {times} times. "
                "Leave one of them."
            )
        captions[image] = caption
    return captions


def read_references(path: str | Path, split: str = "test") -> dict[Id, list[str]]:
    """The sentences of each image, from COCO's annotations or from Karpathy's JSON.

    Args:
        path: COCO: {"images": [{"id"}], "annotations": [{"image_id", "caption", "id"}]}, where "images" may be missing;
            Karpathy: {"images": [{"filename", "split", "sentences": [{"raw"}], "cocoid"}]}, where "cocoid" may be.
        split: of Karpathy's file: "train" (with "restval"), "val", "test" or "trainval"; a file of COCO is one split.

    Returns:
        Sentences by image id, which is "cocoid" or else "filename" in Karpathy's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of neither format, a sentence is empty, an image has none, a sentence belongs to an
            image that is not listed, an image comes twice, or no image belongs to the split.
    """
    path = Path(path)
    wanted = {*parts(split), *(["restval"] if "train" in parts(split) else [])}
    content = read_json(path)
    listed = content.get("images") if isinstance(content, dict) else None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        references = _of_coco(listed, content["annotations"], path)
    elif isinstance(listed, list) and all(isinstance(row, dict) and "sentences" in row for row in listed):
        references = _of_karpathy([row for row in listed if row.get("split") in wanted], path)
    else:
        raise ValueError(
            f"{path} must be COCO's captions (an object with a list 'annotations') or Karpathy's JSON (a list 'images' "
            f"with 'sentences' in each): got {', '.join(content) if isinstance(content, dict) else 'no object'}."
        )
    if not references:
        raise ValueError(f"{path} must hold references: it has no image of the split {split!r}. Name another split.")
    empty = [image for image, sentences in references.items() if not sentences]
    if empty:
        raise ValueError(
            f"{path}: every image must have a caption: {len(empty)} of {len(references)} have none, the first is "
            f"{empty[0]!r}. Leave it out of 'images'."
        )
    return references


def matched(
    captions: Mapping[Id, str], references: Mapping[Id, list[str]], partial: bool = False
) -> tuple[dict[Id, str], dict[Id, list[str]]]:
    """Both for the same images, in the order of the references.

    Args:
        captions: of a model.
        references: of people.
        partial: score only the images that have a caption, as the official evaluation does without a word.

    Raises:
        ValueError: a caption of an image that the references do not have, no caption at all, or, unless `partial`, an
            image without a caption.
    """
    unknown = [image for image in captions if image not in references]
    if unknown:
        first = unknown[0]
        by_text = {str(image): image for image in references}
        if str(first) in by_text:
            what = (
                f"the references have {by_text[str(first)]!r}, which differs just by its type. Write image ids with "
                "quotes in both files, or without in both."
            )
        else:
            what = f"caption the images of the references, or name the right split.{hint(first, by_text)}"
        raise ValueError(
            f"captions must be of images that have references: {len(unknown)} of {len(captions)} are not, the first is "
            f"of image {first!r}: {what}"
        )
    missing = [image for image in references if image not in captions]
    if len(missing) == len(references) or (missing and not partial):
        raise ValueError(
            f"every image must have a caption: {len(missing)} of {len(references)} have none, the first is "
            f"{missing[0]!r}. Caption them, or score only the images that have one with partial=True (--partial), as "
            "the official evaluation does."
        )
    both = [image for image in references if image in captions]
    return {image: captions[image] for image in both}, {image: references[image] for image in both}


def _of_coco(images: Any, annotations: list[Any], path: Path) -> dict[Id, list[str]]:
    references: dict[Id, list[str]] = {}
    if images is not None:
        if not isinstance(images, list) or not all(isinstance(row, dict) and _is_id(row.get("id")) for row in images):
            raise ValueError(f"{path}: 'images' must be a list of objects with an 'id', a number or text.")
        references = {row["id"]: [] for row in images}
    for number, row in enumerate(annotations):
        name = f", id {row['id']!r}" if isinstance(row, dict) and "id" in row else ""
        where = f"{path}: annotation {number}{name}"
        image, caption = _entry(row, where)
        if images is not None and image not in references:
            raise ValueError(f"{where}: its image {image!r} must be listed under 'images': it is not.")
        references.setdefault(image, []).append(_not_empty(caption, f"{where}, image {image!r}"))
    return references


def _of_karpathy(rows: list[dict[str, Any]], path: Path) -> dict[Id, list[str]]:
    references: dict[Id, list[str]] = {}
    for row in rows:
        image: Any = row.get("cocoid", row.get("filename"))
        sentences = row["sentences"]
        if not _is_id(image) or not isinstance(sentences, list):
            got = f"{image!r} with {type(sentences).__name__}"
            raise ValueError(f"{path}: an image needs a 'filename' or a 'cocoid', and a list 'sentences': got {got}.")
        if image in references:
            raise ValueError(f"{path}: images must differ: {image!r} comes more than once. Leave one of them.")
        references[image] = []
        for number, said in enumerate(sentences):
            where = f"{path}: sentence {number} of image {image!r}"
            if not isinstance(said, dict) or not isinstance(said.get("raw"), str):
                raise ValueError(f"{where} must be an object with a text 'raw': got {said!r}.")
            references[image].append(_not_empty(said["raw"], where))
    return references


def _entry(row: Any, where: str) -> tuple[Id, str]:
    """The image and the caption of one object."""
    if not isinstance(row, dict) or "image_id" not in row or "caption" not in row:
        got = f"the keys {', '.join(map(str, row))}" if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where} must be an object with image_id and caption: got {got or 'none'}.")
    if not _is_id(row["image_id"]):
        raise ValueError(f"{where}: image_id must be a whole number or text: got {row['image_id']!r}.")
    if not isinstance(row["caption"], str):
        raise ValueError(f"{where}: the caption of image {row['image_id']!r} must be text: got {row['caption']!r}.")
    return row["image_id"], row["caption"]


def _not_empty(caption: str, where: str) -> str:
    if not caption.strip():
        raise ValueError(f"{where}: a reference must have words: it is empty. Leave it out.")
    return caption


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)
