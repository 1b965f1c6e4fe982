"""Methods by name: the map of a name is that of its method, cells lie where they look, and drawings show them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mm.explain import attribution
from mm.explain.cam import box_of, cam
from mm.explain.layers import activations
from mm.explain.methods import HEAT, METHODS, boxed, centred, explain, last_layer, occluded
from mm.explain.pictures import Cell, coloured, draw_cells, heated, spectrogram


class Counts(nn.Module):
    """Strided convolutions, the mean over the places, and a linear layer; a norm between them if it is asked for."""

    def __init__(self, channels: int = 3, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(channels, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True)
        )
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.classify = nn.Linear(8, 4)
        if norm:
            nn.init.uniform_(self.norm.weight)
            nn.init.uniform_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.norm(self.net(x).mean((2, 3))))


def noise(channels: int = 3, rows: int = 32, columns: int = 32, count: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, rows, columns, generator=torch.Generator().manual_seed(1))


PICTURE = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("filters", "visualise")])
def test_a_name_gives_the_map_of_its_method(method: str) -> None:
    net, seen = Counts(), noise()
    found = explain(method, net, seen, 2, PICTURE, head=("classify",))
    assert np.array_equal(found.cells[0].pixels, PICTURE)
    if method == "activations":
        assert found.heat is None
        assert len(found.cells) == 1 + 8
        return
    layer = "net"
    direct = {
        "occlusion": lambda: attribution.occlusion(net, seen, 2, 5, 1),
        "grad_cam": lambda: centred(attribution.grad_cam(net, seen, 2, layer), net, seen, layer),
        "cam": lambda: centred(cam(net, seen, 2, layer, "classify"), net, seen, layer),
        "guided_grad_cam": lambda: attribution.strongest(
            attribution.guided_backprop(net, seen, 2)
            * attribution.upsample(
                centred(attribution.grad_cam(net, seen, 2, layer), net, seen, layer).clamp_min(0), (32, 32)
            )[:, None]
        ),
        "deconvnet": lambda: attribution.strongest(attribution.deconvnet(net, seen, 2)),
        "guided_backprop": lambda: attribution.strongest(attribution.guided_backprop(net, seen, 2)),
    }.get(method, lambda: getattr(attribution, method)(net, seen, 2))
    assert torch.allclose(found.heat, direct()[0], atol=1e-6)


def test_cam_is_grad_cam_times_the_places_also_through_a_norm() -> None:
    """And its mean, with the constant that the head adds, is the output: for a norm too, which no gradient tells."""
    seen = noise(count=3)
    for net, head in ((Counts(), ("classify",)), (Counts(norm=True), ("classify", "norm"))):
        for target in range(4):
            with torch.no_grad():
                output = net(seen)[:, target]  # (3,)
                bias = net.classify.bias[target]
                if len(head) == 2:
                    bias = bias + net.classify.weight[target] @ net.norm.bias
            cells = cam(net, seen, target, "net.3", *head)  # (3, H', W')
            assert torch.allclose(cells.mean((1, 2)) + bias, output, atol=1e-5)
    plain = cam(Counts(), seen, 1, "net.3", "classify")
    assert torch.allclose(plain, 64 * attribution.grad_cam(Counts(), seen, 1, "net.3"), rtol=1e-5, atol=1e-6)


def test_cam_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match="cam takes an output that one linear layer gives"):
        explain("cam", Counts(), noise(), 1, PICTURE)
    with pytest.raises(ValueError, match="mean over the layer's places"):
        explain("cam", Counts(norm=True), noise(), 1, PICTURE, head=("classify",))


@pytest.mark.parametrize(("side", "padding"), [(32, 1), (33, 1), (51, 1), (35, 0), (64, 0)])
def test_cells_lie_where_they_look(side: int, padding: int) -> None:
    """A bright row, and where the cells of a strided network say that it is: off by pixels, unless they are moved."""
    net = Counts(1)
    net.net[0].padding = net.net[2].padding = (padding, padding)
    for conv in (net.net[0], net.net[2]):
        nn.init.constant_(conv.weight, 1.0)
        nn.init.zeros_(conv.bias)
    raw, moved = [], []
    for row in range(side // 3, side - side // 3):
        seen = torch.zeros(1, 1, side, side)
        seen[0, 0, row] = 1.0
        map_ = activations(net, seen, "net.3")[:, 0]  # (1, H', W')
        raw.append(middle(map_[0], side) - row)
        moved.append(middle(centred(map_, net, seen, "net.3")[0], side) - row)
    assert abs(np.mean(moved)) < 0.35
    assert np.abs(moved).mean() < 0.8  # cells are 4 px wide
    assert np.abs(moved).mean() < np.abs(raw).mean() + 0.1  # of odd sides they are in place already


def middle(map_: torch.Tensor, side: int) -> float:
    """The mean row of a map (H', W'), drawn over an input of so many pixels a side."""
    weights = map_.sum(dim=1)  # (H',)
    cells = torch.arange(len(weights)) + 0.5
    return float((weights * cells).sum() / weights.sum()) * side / len(weights) - 0.5


def test_maps_of_centred_cells_and_of_cells_that_see_everything_stay() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(4))
    map_ = noise(4, 8, 8)[:, 0]
    assert torch.equal(centred(map_, pooled, noise(), "1"), map_)
    attending = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample((8, 8)))
    assert torch.equal(centred(map_, attending, noise(), "1"), map_)


def test_the_window_of_occlusion_is_a_sixth_of_each_side() -> None:
    net, seen = Counts(1), noise(1, 24, 48)
    assert torch.equal(occluded(net, seen, 0, ""), attribution.occlusion(net, seen, 0, (4, 8), (1, 2)))


def test_a_spectrogram_is_drawn_with_its_low_bands_at_the_bottom() -> None:
    seen = torch.zeros(1, 1, 16, 32)
    seen[0, 0, 2] = 1.0  # the third lowest band sounds
    shown = spectrogram(seen[0])
    assert shown.shape == (16, 32, 3)
    assert shown[13].min() > shown[:13].max()
    net = Counts(1)
    found = explain("occlusion", net, seen, 1, shown, flipped=True)
    upright = explain("occlusion", net, seen, 1, shown)
    assert torch.equal(found.heat, upright.heat)
    assert not np.array_equal(found.cells[1].pixels, upright.cells[1].pixels)
    for method, place in (("guided_backprop", 1), ("visualise", 1), ("filters", 0)):
        cells = explain(method, net, seen, 1, shown, flipped=True).cells
        straight = explain(method, net, seen, 1, shown).cells
        assert np.array_equal(cells[place].pixels, straight[place].pixels[::-1])


def test_the_box_is_that_of_the_heat() -> None:
    found = explain("grad_cam", Counts(), noise(), 2, PICTURE)
    box = box_of(found.heat, size=(32, 32))
    assert all(cell.boxes == [box] for cell in boxed(found, (32, 32)).cells)
    left, top, right, bottom = box
    assert boxed(found, (32, 32), flipped=True).cells[0].boxes == [(left, 1 - bottom, right, 1 - top)]
    cold = found._replace(heat=-torch.ones(4, 4))
    assert boxed(cold, (32, 32)) == cold


def test_the_last_layer_of_those_that_are_asked_for() -> None:
    net, seen = Counts(), noise()
    assert last_layer(net, seen) == "net"  # ends with its last part
    assert last_layer(net, seen, "net.") == "net.3"
    with pytest.raises(ValueError, match="no layer with a map of several cells"):
        last_layer(net, seen, "classify")
    with pytest.raises(ValueError, match=r"unknown method 'gradcam'.*Did you mean 'grad_cam'"):
        explain("gradcam", net, seen, 2, PICTURE)
    with pytest.raises(ValueError, match=r"no layer 'net\.33'"):
        explain("grad_cam", net, seen, 2, PICTURE, "net.33")
    with pytest.raises(ValueError, match=r"a layer is for grad_cam.*got 'net\.3' with saliency"):
        explain("saliency", net, seen, 2, PICTURE, "net.3")


def test_every_method_leaves_the_network_as_it_was() -> None:
    net, seen = Counts().train(), noise()
    net(seen).sum().backward()
    before = [(p.clone(), p.grad.clone()) for p in net.parameters()]
    for method in (*HEAT, "activations", "filters", "visualise"):
        explain(method, net, seen, 2, PICTURE)
    assert all(
        torch.equal(p, old) and torch.equal(p.grad, g) for p, (old, g) in zip(net.parameters(), before, strict=True)
    )
    assert all(module.training for module in net.modules())


# Drawing ------------------------------------------------------------------------------------------------------------


def test_heat_is_brightest_at_its_maximum_and_dark_below_zero() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    heat = torch.full((4, 4), -1.0)
    heat[1, 2] = 3.0
    cell = heated(grey, heat, "a map")
    assert cell.title == "a map, to 3"
    light = cell.pixels.sum(axis=2)
    assert (light[8:16, 16:24].min()) > light[24:, :8].max()
    assert np.array_equal(heated(grey, torch.full((4, 4), -1.0), "").pixels[0, 0], light_of_nothing(grey))


def test_faint_heat_is_as_bright_as_any() -> None:
    grey, heat = np.full((32, 32, 3), 100, np.uint8), torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(heated(grey, 1e-9 * heat, "").pixels, heated(grey, heat, "").pixels)
    assert np.array_equal(coloured(1e-20 * heat[None], "").pixels, coloured(heat[None], "").pixels)


def light_of_nothing(grey: np.ndarray) -> np.ndarray:
    return heated(grey, torch.zeros(4, 4), "").pixels[0, 0]


def test_no_gradient_is_grey_and_signs_are_told_apart() -> None:
    gradient = torch.zeros(3, 2, 2)
    gradient[0, 0, 0], gradient[1, 1, 1] = 2.0, -2.0
    pixels = coloured(gradient, "").pixels.astype(int)
    assert pixels[0, 0].tolist() == [255, 128, 128]
    assert pixels[1, 1].tolist() == [128, 0, 128]
    assert pixels[0, 1].tolist() == [128, 128, 128]


def test_cells_are_drawn_side_by_side(tmp_path) -> None:
    red = Cell("red", np.full((8, 8, 3), (255, 0, 0), np.uint8))
    wide = Cell("blue", np.full((4, 16, 3), (0, 0, 255), np.uint8), [(0.25, 0.25, 0.75, 0.75)])
    with Image.open(draw_cells([red, wide] * 5, tmp_path / "deep/cells.png", "a note")) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    counts = {colour: int((pixels == np.array(colour)).all(axis=1).sum()) for colour in ((255, 0, 0), (0, 0, 255))}
    assert counts[255, 0, 0] > 1.8 * counts[0, 0, 255] > 0
    for cells, name, said in (([], "x.png", "at least: got none"), ([red], "x.jpg", "written as .png")):
        with pytest.raises(ValueError, match=said):
            draw_cells(cells, tmp_path / name)
