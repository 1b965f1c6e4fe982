"""What the places of a layer see of the input: receptive fields by formula.

Operation by operation, as the network runs once, what the places of a tensor see follows from what those of its sources
see. So branches, functions and frozen parts are no special cases, it costs one forward pass, and it tells what would
lie beyond the input. The support of a gradient would need values that close no path, and an input larger than that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from mm.explain.layers import last, layer_of
from mm.explain.target import hooked
from mm.modes import in_eval_mode

BoxPx = tuple[int, int, int, int]

POOLS = {"max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
SAME_PLACE = {  # a place sees what the same place of the sources sees; PyTorch itself marks most such operations
    *("hardswish", "hardtanh", "relu6", "leaky_relu", "prelu", "selu", "log_sigmoid", "where", "batch_norm"),
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("contiguous", "to", "detach", "alias", "type_as", "expand", "expand_as"),
}
ALONG = {  # the same, if the axes in the argument `dim` are no rows or columns
    *("cat", "softmax", "log_softmax", "glu", "mean", "sum", "amax", "linalg_vector_norm"),
    *("chunk", "split", "split_with_sizes", "select", "unbind"),
}
RESHAPES = {"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"}


class Field(NamedTuple):
    """What the places of a layer see of the input, in pixels, rows before columns.

    Attributes:
        size: from the first to the last pixel that one place sees, also where that lies beyond the input. There may be
            gaps between them, such as those of a dilated convolution.
        stride: from one place to the next; 0 = every place sees the whole input.
        start: first row and column that place (0, 0) sees; below 0 = before the input.
        whole: the operation that lets every place see the whole input, or of which no formula is known, so that this is
            an upper bound; "" = none.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]
    whole: str = ""

    def box(self, row: int, column: int) -> BoxPx:
        """(left, top, right, bottom) of what a place sees, the last two exclusive, also beyond the input."""
        top, left = self.start[0] + row * self.stride[0], self.start[1] + column * self.stride[1]
        return left, top, left + self.size[1], top + self.size[0]


def receptive_field(model: nn.Module, inputs_size: tuple[int, int, int], layer: str | nn.Module) -> Field:
    """What the places of a layer see: the union over all paths to it (Araujo et al. 2019, sections 2 and 3).

    What mixes all places, such as attention or the mean in squeeze-and-excitation, lets every later place see the whole
    input; `Field.whole` names it.

    Args:
        model: takes (B, C, H, W).
        inputs_size: (C, H, W) of an input that the model takes.
        layer: dotted name or module. Of one that runs several times the last call counts.

    Raises:
        ValueError: no (C, H, W), an unknown layer, or one that does not run.
    """
    if len(inputs_size) != 3 or min(inputs_size) < 1:
        raise ValueError(f"the size of an input must be (C, H, W), 1 or more each: got {tuple(inputs_size)}.")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    module, kept = layer_of(model, layer), list[Seen]()
    # Only in inference mode does a dispatch mode see linear layers and norms before they are taken apart.
    with in_eval_mode(model), torch.inference_mode():
        inputs = torch.zeros(1, *inputs_size, dtype=like.dtype, device=like.device)  # (1, C, H, W)
        tracer = _Tracer(inputs)

        def keep(module: nn.Module, given: Any, output: Any) -> None:  # at once: what follows may write into the output
            kept[:] = [tracer.seen.get(output, type(module).__name__) if isinstance(output, Tensor) else "no tensor"]

        with hooked([module], keep), tracer:
            model(inputs)
    seen = last(kept, layer)
    if isinstance(seen, str):
        return Field((inputs_size[1], inputs_size[2]), (0, 0), (0, 0), seen)
    rows, columns = seen
    return Field((rows.size, columns.size), (rows.stride, columns.stride), (rows.start, columns.start))


class _Axis(NamedTuple):
    """What the places along rows or columns see, see `Field`; `axis` of the tensor, counted from its last, -1."""

    axis: int
    size: int
    stride: int
    start: int

    def windows(self, span: int, stride: int, before: int) -> _Axis:
        """What windows over `span` places see, every `stride` places, the first of which starts `before` place 0."""
        size, start = self.size + (span - 1) * self.stride, self.start - before * self.stride
        return self._replace(size=size, stride=self.stride * stride, start=start)


Seen = tuple[_Axis, _Axis] | str  # rows and columns; or the operation that lets every place see the whole input


class _Tracer(TorchDispatchMode):
    """Follows through every operation what the tensors that come from `inputs` (1, C, H, W) see."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.seen: Any = WeakTensorKeyDictionary()
        self.seen[inputs] = _Axis(-2, 1, 1, 0), _Axis(-1, 1, 1, 0)
        self.lost = ""  # an operation that wrote into a part of a tensor: other tensors share it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t in self.seen]
        seen, shapes = [self.seen[t] for t in sources], [t.shape for t in sources]
        output = func(*args, **kwargs)
        if sources:
            name = func.overloadpacket.__name__.rstrip("_")
            given = {argument.name: argument.default_value for argument in func._schema.arguments}
            given |= {**dict(zip(given, args, strict=False)), **kwargs, "pointwise": torch.Tag.pointwise in func.tags}
            for result in tree_leaves(output):
                if isinstance(result, Tensor):
                    found = self.lost or _through(name, given, seen, shapes, result.shape)
                    part = result.untyped_storage().nbytes() > result.nbytes
                    if func._schema.is_mutable and result is args[0] and part and found != self.seen.get(result):
                        self.lost = found = name
                    self.seen[result] = found
        return output


def _through(name: str, given: dict[str, Any], seen: list[Seen], shapes: list[torch.Size], shape: torch.Size) -> Seen:
    """What the places of an operation's result see.

    Args:
        name: of the operation, such as "conv2d".
        given: its arguments by their names, and whether it is `pointwise`.
        seen: by the places of its sources that come from the input.
        shapes: of those sources.
        shape: of the result.
    """
    sources = [one for one in seen if not isinstance(one, str)]
    if len(sources) < len(seen):
        return next(one for one in seen if isinstance(one, str))
    rows, columns = sources[0]
    dims, axes = len(shapes[0]), (rows.axis, columns.axis)
    if any((r.axis, c.axis) != axes or (r.stride, c.stride) != (rows.stride, columns.stride) for r, c in sources):
        return name
    if name in ("conv2d", *POOLS) and len(sources) == 1 and {*axes} == {-2, -1} and dims == 4:
        windows = [_window(name, given, axis, shapes[0], shape) for axis in axes]
        return name if None in windows else (rows.windows(*windows[0]), columns.windows(*windows[1]))  # type: ignore[misc]
    if name == "pad" and given["mode"] in ("constant", "replicate"):  # others bring pixels of elsewhere
        before = [*given["pad"], 0, 0, 0, 0]
        return rows.windows(1, 1, before[-2 * axes[0] - 2]), columns.windows(1, 1, before[-2 * axes[1] - 2])
    if name == "slice" and (axis := given["dim"] % dims - dims) in axes:
        begin = slice(given["start"], given["end"]).indices(shapes[0][axis])[0]
        cut = [one.windows(1, given["step"], -begin) if one.axis == axis else one for one in (rows, columns)]
        return cut[0], cut[1]
    if name in ("permute", "transpose"):
        order = list(range(-dims, 0))
        if name == "permute":
            order = [axis % dims - dims for axis in given["dims"]]
        else:
            one, other = given["dim0"], given["dim1"]
            order[one], order[other] = order[other], order[one]
        return tuple(one._replace(axis=order.index(one.axis) - dims) for one in (rows, columns))  # type: ignore[return-value]
    if not _stays(name, given, axes, shapes, shape):
        return name
    return _union([r for r, _ in sources]), _union([c for _, c in sources])


def _stays(
    name: str, given: dict[str, Any], axes: tuple[int, int], shapes: list[torch.Size], shape: torch.Size
) -> bool:
    """Whether a place of the result comes from the same place of each source, along rows and columns at `axes`."""
    dims, first = len(shapes[0]), min(axes)
    if len(shape) < -first or any(source[axis] != shape[axis] for source in shapes for axis in axes):
        return False
    if name == "batch_norm":
        return not given["training"]  # else it has means over all places
    if name in ("linear", "layer_norm"):
        normed = 1 if name == "linear" else len(given["normalized_shape"])
        return max(axes) < -normed and len(shapes) == 1
    if name in ("slice", *ALONG):
        along = given.get("dim")
        along = {axis % dims - dims for axis in ([along] if isinstance(along, int) else along or range(dims))}
        return along.isdisjoint(axes) and (len(shape) == dims or max(along) < first)
    if name in RESHAPES:
        return shape[first:] == shapes[0][first:]
    return given["pointwise"] or name in SAME_PLACE


def _window(
    name: str, given: dict[str, Any], axis: int, shape: torch.Size, result: torch.Size
) -> tuple[int, int, int] | None:
    """(places that a window spans, stride, places padded before the first) along an axis; None = no fixed ones."""
    if name.startswith("adaptive"):
        stride, rest = divmod(shape[axis], result[axis])
        return None if rest else (stride, stride, 0)

    def along(argument: str, default: int) -> int:
        value = given.get(argument) or [default]
        return value if isinstance(value, int) else value[axis] if len(value) > 1 else value[0]

    kernel = given["weight"].shape[axis] if name == "conv2d" else along("kernel_size", 1)
    span = along("dilation", 1) * (kernel - 1) + 1
    stride = along("stride", 1 if name == "conv2d" else kernel)
    if isinstance(given["padding"], str):
        return span, stride, (span - 1) // 2 if given["padding"] == "same" else 0
    return span, stride, along("padding", 0)


def _union(along: list[_Axis]) -> _Axis:
    start, end = min(one.start for one in along), max(one.start + one.size for one in along)
    return along[0]._replace(start=start, size=end - start)
