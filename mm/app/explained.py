"""What a run says of one input, explained by a method: what the script and the page's tab of explanations share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mm import data, encoders
from mm.app.inputs import KINDS
from mm.app.runs import Run
from mm.data import Item
from mm.explain import faithfulness
from mm.explain.attribution import upsample
from mm.explain.cam import THRESHOLD, box_of
from mm.explain.methods import PIXELS, Explained, explain, heat_of, last_layer, layer_for
from mm.explain.patches import strongest_patches
from mm.explain.pictures import Cell, as_pixels, readable, spectrogram, stretched
from mm.features import Features
from mm.media import read_image
from mm.modes import in_eval_mode
from mm.naming import known
from mm.tasks import distillation_data, localisation_data

EDGES = {
    "video": ("from the left", "from the top"),
    "image": ("from the left", "from the top"),
    "audio": ("of the time", "of the bands, from the lowest"),
}
OF_ENCODERS = ("filters", "activations")  # methods that ask for no answer
ENCODER = "encoder."  # where the layers of an `EndToEnd` begin that see places; heads have maps too
PATCHES = 8  # of a channel that are shown
INPUTS = 200  # of the test split, among which patches are looked for


def view_of(
    run: Run, sources: Mapping[str, Any], of: str = "", target: str = "", question: str = ""
) -> tuple[str, encoders.View]:
    """One thing that a run says of one input, and the modality of that input.

    Args:
        run: of any task.
        sources: {"image" or "audio": file or array, "video": faces, see `mm.tasks.separation_model`}.
        of: which of them is explained; "" = the faces, or else the picture if there is one.
        target: see `view` of the task's model; "" = the model's own.
        question: of question answering.

    Raises:
        ValueError: no source, a question where none is asked or none where one is; or see `view`.
    """
    if (run.task == "vqa") != bool(question):
        raise ValueError(
            "a question is needed, whose answer is explained: got none."
            if run.task == "vqa"
            else f"a question is for runs of question answering: {run.path} is one of {run.task}. Leave it out."
        )
    if not sources:
        takes = " or ".join(kind for modality, kind in KINDS.items() if modality in run.model.encoders)
        raise ValueError(f"what is explained must be given, {takes}: got none.")
    for file in (file for given in sources.values() for file in (given if isinstance(given, list) else [given])):
        if isinstance(file, (str, Path)) and not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {file}.")
    of = of or next(modality for modality in EDGES if modality in sources)
    asked = {"question": question} if question else {"decoding": run.cfg.decoding} if run.task == "captioning" else {}
    return of, run.model.view(of, sources, target, **asked)


def unknown_words(run: Run, target: str, question: str) -> list[str]:
    """Words of a sentence, the target of retrieval or a question, that the encoder does not know; they have no part."""
    said = question if run.task == "vqa" else target if run.task == "retrieval" else ""
    return run.model.encoder("text").unknown_words(said) if said else []


def explain_view(of: str, view: encoders.View, source: Any, method: str, layer: str = "") -> Explained:
    """What a method says of a view, over the picture, the spectrogram that the network sees, or a face in mid-sound."""
    if of == "video":
        known(method, PIXELS, "method for faces")
        shown = as_pixels(view.seen[0, view.seen.shape[1] // 2][None])  # (H, W, 3)
    elif source is None:  # of filters
        shown = stretched(view.seen[0])  # (H, W, 3)
    else:
        shown = read_image(source) if of == "image" else readable(spectrogram(view.seen[0]))
    if method != "filters":
        layer = layer_for(method, view.net, view.seen, layer, ENCODER)
    return explain(method, view.net, view.seen, view.target, shown, layer, view.head, flipped=of == "audio")


def facts(view: encoders.View, heat: Tensor | None, of: str) -> dict[str, Any]:
    """The score that is explained, and where the heat of it is strongest, as shares of the input; if it is anywhere.

    Of a picture from its left and its top, of a sound from its start and from its lowest band.
    """
    with in_eval_mode(view.net):
        output = view.net(view.seen)
    score = output[0, view.target] if isinstance(view.target, int) else view.target(output)[0]
    told: dict[str, Any] = {"score": float(score)}
    if heat is not None and bool((heat > 0).any()):
        rows, columns = heat.shape
        row, column = divmod(int(heat.argmax()), columns)
        told["strongest"] = dict(zip(EDGES[of], ((column + 0.5) / columns, (row + 0.5) / rows), strict=True))
    return told


def box_told(view: encoders.View, heat: Tensor, of: str, threshold: float = THRESHOLD) -> dict[str, float] | None:
    """The box around the largest part of a heat map above a share of its maximum; None = nothing is above 0."""
    box = box_of(heat, threshold, size=(view.seen.shape[2], view.seen.shape[3]))
    along, across = EDGES[of]
    names = (f"{along}, first", f"{across}, first", f"{along}, last", f"{across}, last")
    return None if box is None else dict(zip(names, box, strict=True))


def faithfulness_of(view: encoders.View, heat: Tensor) -> dict[str, float]:
    """How faithful a heat map (H, W) is, beside random orders: see `mm.explain.faithfulness`."""
    maps = upsample(heat[None].to(view.seen), (view.seen.shape[2], view.seen.shape[3]))  # (1, h, w)
    given = (view.net, view.seen, view.target, maps)
    added, removed = faithfulness.insertion(*given), faithfulness.deletion(*given)
    return {
        "insertion": float(added.area),
        "insertion, random order": float(added.control),
        "deletion": float(removed.area),
        "deletion, random order": float(removed.control),
        "infidelity": float(faithfulness.infidelity(*given, any_scale=True)),
    }


def with_random_weights(view: encoders.View, method: str, layer: str = "") -> list[faithfulness.Randomised]:
    """What becomes of a heat map as layer after layer gets random weights, the head first and the pixels' side last."""
    layer = layer_for(method, view.net, view.seen, layer, ENCODER)
    names = [name for name, module in view.net.named_modules() if name and any(True for _ in module.parameters(False))]
    parts = dict.fromkeys("head" if name.startswith("head") else ".".join(name.split(".")[:4]) for name in names)
    order = ["head", *[name for name in reversed(parts) if name != "head"]]
    return faithfulness.randomised(
        view.net, lambda net: heat_of(method, net, view.seen, view.target, layer, view.head), order
    )


def encoder_view(run: Run, of: str, source: Any = None) -> encoders.View:
    """What the encoder of a modality gives of an input, of a black one where there is none: for what needs no answer.

    Raises:
        ValueError: an unknown modality, or one without places.
    """
    if run.task == "separation":
        raise ValueError("a separation looks at faces over time: its layers have no pictures to be shown.")
    takes = [modality for modality in run.model.encoders if modality != "text"]
    encoder = run.model.encoders[known(of, takes, "modality of this run")]
    net = encoders.EndToEnd(encoder, nn.Identity(), vector_of)
    seen = torch.zeros(1, 3, 64, 64) if source is None else encoders.seen_of(encoder, source)  # (1, C, H, W)
    return encoders.View(net, seen, 0, f"the encoder of the {of}")


def encoder_cells(
    run: Run, sources: Mapping[str, Any], of: str, method: str, layer: str = ""
) -> tuple[dict[str, Any], list[Cell]]:
    """The filters of the encoder of a modality, or its activations of an input: methods that ask for no answer.

    Args:
        run: of any task but separation.
        sources: as for `view_of`; filters need none.
        of: the modality.
        method: one of `OF_ENCODERS`.
        layer: of the activations; "" = the last with a map.

    Raises:
        ValueError: an unknown modality or layer, or no input that has activations.
    """
    view = encoder_view(run, of, sources.get(of))
    if method == "filters":
        told = f"filters of {view.said}"
    elif of in sources:
        told = f"activations of {view.said}, {layer or 'the last layer with a map'}"
    else:
        raise ValueError(f"activations are those of an input: got none. Give {KINDS[of]}.")
    return {"what": told}, explain_view(of, view, sources.get(of), method, layer).cells


def vector_of(features: Features) -> Tensor:
    """(B, D_v)."""
    return features.vector


def patch_cells(run: Run, of: str, layer: str, unit: int) -> tuple[dict[str, Any], list[Cell]]:
    """The patches of a run's test inputs that excite a channel of a layer most, the strongest first.

    Returns:
        What is told of them, and their pictures.

    Raises:
        ValueError: an unknown modality, layer or channel, or a data set without such inputs.
    """
    net, encoder = encoder_view(run, of).net, run.model.encoders[of]
    items = [item for item in items_of(run) if getattr(item, of)]
    if not items:
        raise ValueError(f"the test split of {run.path} must have a source of {of}: it has none.")
    seen = [encoders.seen_of(encoder, getattr(item, of)[0]) for item in items]  # (1, C, H, W) each
    layer = layer or last_layer(net, seen[0], ENCODER)
    found, cells = strongest_patches(net, seen, layer, unit, PATCHES), []
    for patch in found:
        left, above, right, below = patch.box_px
        part = seen[patch.item][0, :, above:below, left:right]  # (C, h, w)
        if not part.numel():  # its field lies beyond the edge
            part = part.new_zeros(1, 1, 1)
        pixels = readable(spectrogram(part)) if of == "audio" else stretched(part)  # (h, w, 3)
        cells.append(Cell(f"{items[patch.item].id}: {patch.activation:.3g}", pixels))
    strengths = {items[patch.item].id: patch.activation for patch in found}
    return {"what": f"channel {unit} of {layer}", "activations": strengths}, cells


def items_of(run: Run) -> Sequence[Item]:
    """The first `INPUTS` items of a run's test split."""
    cfg = run.cfg
    if run.task == "vqa":
        items = data.load_asked(cfg.data, "test", cfg.seed, cfg.modalities)
    elif run.task == "localisation":
        (items,) = localisation_data.load(cfg, ("test",))
    elif run.task == "distillation":
        pictures = run.model.modality == "image"
        items = (distillation_data.load_pictures if pictures else distillation_data.load_pairs)(cfg, "test")
    else:
        items = data.load(cfg.data, "test", cfg.seed)
    return list(islice(items, INPUTS))
