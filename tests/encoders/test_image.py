import copy
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mm.encoders import IMAGE_ENCODERS, ImageEncoder, image_encoder
from mm.encoders.image import load_torchvision, resized
from mm.encoders.image_networks import IMAGENET_MEAN, IMAGENET_STD
from mm.media import read_image, view_of


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors agree up to a share of the largest number."""
    return a.shape == b.shape and (a - b).abs().max().item() <= tolerance * b.abs().max().item()


def pictures(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def with_random_statistics(module: nn.Module) -> nn.Module:
    """BatchNorm statistics that are not 0 and 1, so that losing them shows."""
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.uniform_(*((-0.1, 0.1) if "mean" in name else (0.5, 1.5)))
    return module


# Every network of the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_network(name):
    torch.manual_seed(0)
    encoder = ImageEncoder(name, size=64).eval()
    assert encoder.kept[-1] == IMAGE_ENCODERS[name].layer == [x for x in encoder.layers if x != "avgpool"][-1]
    values = pictures(2, 64)
    with torch.no_grad():
        features = encoder(values)
        single = [encoder(values[b : b + 1]) for b in range(2)]
    places = features.grid[0] * features.grid[1]
    assert features.map.shape == (2, places, encoder.dim) and features.mask.shape == (2, places)
    assert features.vector.shape == (2, encoder.vector_dim) and features.mask.all() and features.map.isfinite().all()
    assert close(features.map, torch.cat([f.map for f in single]))
    assert close(features.vector, torch.cat([f.vector for f in single]))
    assert not close(features.vector[:1], features.vector[1:], 1e-4)
    if name != "vit_b_16":
        assert close(features.vector, features.map.mean(dim=1))

    # the same network, its first half frozen
    middle = encoder.layers[len(encoder.layers) // 2]
    half = ImageEncoder(name, size=64, train_from=middle)
    half.load_state_dict(encoder.state_dict())
    half.eval()
    trunk, lengths = half.trunk(values)
    kept = trunk.clone()
    assert trunk.is_contiguous() and not trunk.requires_grad and lengths is None
    whole, cached = half(values), half(kept, from_trunk=True)
    assert torch.equal(whole.map, cached.map) and torch.equal(whole.vector, cached.vector) and torch.equal(kept, trunk)
    assert close(whole.map, features.map)  # torch takes a faster attention where no gradient is asked for
    before = {key: value.clone() for key, value in half.state_dict().items()}
    half.train()
    loss = half(values).vector.square().mean()
    loss.backward()
    frozen = tuple(f"net.{layer}." for layer in half.layers[: half.layers.index(middle)])
    assert all((p.grad is None) == n.startswith(frozen) for n, p in half.named_parameters())
    changed = {key for key, value in half.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith(frozen) for key in changed) and all("running" in k or "num_" in k for k in changed)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "bn1"), ("densenet121", "features.norm0")])
def test_folding_stops_where_the_trunk_ends(name, layer):
    encoder = ImageEncoder(name, size=64, train_from=layer)
    with_random_statistics(encoder.eval())
    folded = encoder.folded()
    with torch.no_grad():
        plain, _ = encoder.trunk(pictures(2, 64))
        assert torch.equal(folded.trunk(pictures(2, 64))[0], plain)
        assert close(folded(pictures(2, 64)).map, encoder(pictures(2, 64)).map)


def test_the_pooled_vector_can_be_the_map():
    torch.manual_seed(0)
    whole = ImageEncoder("mobilenet_v2", size=64).eval()
    pooled = ImageEncoder("mobilenet_v2", size=64, layer="avgpool", freeze=True).eval()
    pooled.load_state_dict(whole.state_dict())
    trunk, _ = pooled.trunk(pictures(2, 64))
    assert trunk.shape == (2, 1280, 1, 1)  # what a cache keeps
    features = pooled(trunk, from_trunk=True)
    assert features.grid == (1, 1) and torch.equal(features.map[:, 0], features.vector)
    with torch.no_grad():
        assert close(features.vector, whole(pictures(2, 64)).vector)


def test_vision_transformer_at_its_own_size():
    encoder = ImageEncoder("vit_b_16", freeze=True).eval()
    values = pictures(1, 224)
    trunk, _ = encoder.trunk(values)
    assert trunk.shape == (1, 1 + 14 * 14, 768) and encoder.size == 224
    features = encoder(trunk, from_trunk=True)
    assert features.grid == (14, 14)
    assert torch.equal(features.map, trunk[:, 1:]) and torch.equal(features.vector, trunk[:, 0])
    with pytest.raises(ValueError, match="pictures must be 224x224: got 16 patches"):
        encoder(pictures(1, 64))


# Against torchvision ------------------------------------------------------------------------------------------------


def reference(name: str) -> nn.Module:
    torch.manual_seed(1)
    options = {"googlenet": {"init_weights": False}, "vit_b_16": {"image_size": 64}}.get(name, {})
    if name == "mobilenet_v2_relu":
        name, options = "quantized_mobilenet_v2", {"quantize": False}
    return with_random_statistics(torchvision.models.get_model(name, weights=None, **options)).eval()


def torchvision_map(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """The last map of a torchvision model by its own forward."""
    if name.startswith("densenet"):
        return torch.relu(model.features(x))
    if hasattr(model, "features"):
        return model.features(x)
    last = {"googlenet": "inception5b", "regnet_y_400mf": "trunk_output", "vit_b_16": "encoder"}.get(name, "layer4")
    outputs = []
    handle = model.get_submodule(last).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model(x)
    handle.remove()
    return outputs[0]


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of torchvision's older files, which also lack BatchNorm's counter."""
    older = {}
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            key = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))(\d)", r"\1.\2", key)
            older[key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = value
    return older


DEEPER = ("resnet34", "resnet101", "resnet152", "vgg19")  # the same code with more layers


@pytest.mark.parametrize("name", [name for name in IMAGE_ENCODERS if name not in ("small_cnn", "lips_cnn", *DEEPER)])
def test_state_dicts_of_torchvision_give_torchvisions_features(name):
    model = reference(name)
    encoder = ImageEncoder(name, size=64).eval()
    load_torchvision(encoder, model.state_dict(), "reference.pth")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, expected = encoder(x), torchvision_map(model, name, x)
    if name == "vit_b_16":
        assert close(torch.cat([features.vector[:, None], features.map], dim=1), expected)
    else:
        assert features.grid == expected.shape[2:]
        assert close(features.map, expected.flatten(2).transpose(1, 2))
    filled, folded = encoder.fingerprint(), encoder.folded()
    with torch.no_grad():
        assert close(folded(x).map, features.map)
    behind = {type(part).__name__ for part in folded.modules()} & {"BatchNorm2d"}
    assert behind == ({"BatchNorm2d"} if name.startswith("densenet") else set())  # whose norms stand before
    assert encoder.fingerprint() == filled
    load_torchvision(encoder, as_published(model.state_dict()), "older.pth")
    assert encoder.fingerprint() == filled


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file(tmp_path, suffix, caplog):
    state = reference("resnet18").state_dict()
    path = tmp_path / f"resnet18.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    with caplog.at_level("INFO"):
        encoder = image_encoder("resnet18", weights=str(path))
    assert "left aside fc.bias, fc.weight" in caplog.text
    assert {key.removeprefix("net."): value.sum() for key, value in encoder.state_dict().items()} == {
        key: value.sum() for key, value in state.items() if not key.startswith("fc.")
    }
    shorter = image_encoder("resnet18", layer="layer2", weights=str(path))
    assert torch.equal(shorter.net.layer2[1].conv2.weight, state["layer2.1.conv2.weight"])
    assert not any("layer3" in key for key in shorter.state_dict())


def test_positions_for_another_size_are_resized_as_torchvision_does():
    state = {"encoder.pos_embedding": torch.randn(1, 1 + 14 * 14, 24)}
    ours = resized(state["encoder.pos_embedding"], 1 + 24 * 24)
    theirs = torchvision.models.vision_transformer.interpolate_embeddings(384, 16, state.copy())
    assert close(ours, theirs["encoder.pos_embedding"])


def test_keys_that_do_not_fit_are_named():
    state = reference("resnet18").state_dict()
    encoder = ImageEncoder("resnet18")
    before = encoder.fingerprint()
    without = {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}
    with pytest.raises(ValueError, match=r"w\.pth for resnet18.*missing \['layer1\.0\.conv1\.weight'\]"):
        load_torchvision(encoder, without, "w.pth")
    with pytest.raises(ValueError, match=r"unexpected \['layer9\.weight'\]"):
        load_torchvision(encoder, state | {"layer9.weight": torch.zeros(1)}, "w.pth")
    with pytest.raises(ValueError, match=r"missing .*unexpected .*'module\.conv1\.weight'"):
        load_torchvision(encoder, {f"module.{k}": v for k, v in state.items()}, "w.pth")
    with pytest.raises(ValueError, match=r"'conv1\.weight' in w\.pth for resnet18 must have the shape"):
        load_torchvision(encoder, state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, "w.pth")
    assert encoder.fingerprint() == before
    load_torchvision(encoder, {k: v for k, v in state.items() if not k.startswith("fc.")}, "w.pth")
    assert encoder.fingerprint() != before


def test_files_that_are_no_state_dicts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights must be a state-dict file: '.*none\.pth' not found"):
        image_encoder("small_cnn", weights=str(tmp_path / "none.pth"))
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"w\.pth must hold a dict of tensors: got \['dict', 'int'\]"):
        image_encoder("small_cnn", weights=str(path))
    torch.save(ImageEncoder().net.state_dict(), path)
    image_encoder("small_cnn", weights=str(path))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        for name in ("d.pth", "d.safetensors"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(ValueError, match="is damaged or another kind of file"):
                image_encoder("small_cnn", weights=str(tmp_path / name))
    with pytest.raises(ValueError, match="must publish weights of 'small_cnn' for 'DEFAULT', and does not"):
        image_encoder("small_cnn", weights="DEFAULT")
    with pytest.raises(ValueError, match="must publish weights of 'quantized_mobilenet_v2'"):
        image_encoder("mobilenet_v2_relu", weights="DEFAULT")


def test_real_weights(real_data):
    path = real_data("weights") / "mobilenet_v2_qat_dequantized.pth"
    encoder = image_encoder("mobilenet_v2_relu", weights=str(path), freeze=True).eval()
    model = torchvision.models.quantization.mobilenet_v2(weights=None, quantize=False)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    values = pictures(2, 224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        features = encoder(values)
        expected = model.features((values / 255 - mean) / std)
        pooled = nn.functional.adaptive_avg_pool2d(expected, 1).flatten(1)
    assert features.grid == (7, 7) and close(features.map, expected.flatten(2).transpose(1, 2))
    assert close(features.vector, pooled) and features.vector.abs().max() > 0.1


# Input, layers, freezing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "small_cnn"])
def test_pixels_are_normalised_as_the_weights_expect(name):
    encoder = ImageEncoder(name).eval()
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name != "resnet18" else (IMAGENET_MEAN, IMAGENET_STD)
    values = pictures(2, 64)
    expected = (values / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert close(encoder(values).map, encoder(expected).map)
    assert not {"mean", "std"} & set(encoder.state_dict())


@pytest.mark.parametrize("values", [torch.zeros(3, 64, 64), torch.zeros(2, 1, 64, 64), torch.zeros(2, 3, 64, 64).int()])
def test_what_is_no_picture(values):
    with pytest.raises(ValueError, match=r"pictures must be \(B, 3, H, W\), uint8 or normalised floats: got"):
        ImageEncoder()(values)


@pytest.mark.parametrize(
    ("name", "layer", "grid", "dim"),
    [
        ("small_cnn", "layer1", (16, 16), 48),
        ("resnet18", "layer3", (4, 4), 256),
        ("vgg16", "features.29", (4, 4), 512),
        ("mobilenet_v2", "features.13", (4, 4), 96),
    ],
)
def test_any_layer_may_be_the_map(name, layer, grid, dim):
    encoder = ImageEncoder(name, layer=layer)
    features = encoder(pictures(1, 64))
    assert features.grid == grid and features.map.shape[-1] == encoder.dim == encoder.vector_dim == dim
    assert encoder.kept[-1] == layer and not any(k.startswith("net.layer4") for k in encoder.state_dict())


def test_small_pictures_give_small_maps():
    encoder = ImageEncoder("small_cnn", size=32)
    assert encoder(pictures(2, 32)).grid == (4, 4) and ImageEncoder("small_cnn").size == 64


def test_names_that_do_not_exist():
    with pytest.raises(ValueError, match=r"unknown image encoder 'resnet5'\. Choose from: small_cnn.*Did you mean 're"):
        image_encoder("resnet5")
    with pytest.raises(ValueError, match=r"unknown layer of resnet18 'layer6'\. Choose from: conv1, bn1.*Did you mean"):
        image_encoder("resnet18", layer="layer6")
    with pytest.raises(ValueError, match="unknown layer of resnet18 up to its map 'layer4'"):
        image_encoder("resnet18", layer="layer3", train_from="layer4")
    with pytest.raises(ValueError, match="freeze=True leaves nothing to train: got train_from='layer4' too"):
        image_encoder("resnet18", freeze=True, train_from="layer4")


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="size must be large enough for the network: got 8"):
        ImageEncoder("alexnet", size=8)
    with pytest.raises(ValueError, match="the size of vit_b_16 must be a multiple of 16: got 100"):
        ImageEncoder("vit_b_16", size=100)


def test_frozen_whole():
    encoder = ImageEncoder("small_cnn", freeze=True).train()
    before = encoder.fingerprint("trunk")
    values = pictures(4, 64)
    trunk, _ = encoder.trunk(values)
    assert trunk.shape == (4, 192, 8, 8) and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder(trunk, from_trunk=True).map, encoder(values).map)
    assert encoder.fingerprint("trunk") == before
    half_precision = encoder(trunk.half(), from_trunk=True)
    assert half_precision.map.dtype == torch.float32 and close(half_precision.map, encoder(values).map, 1e-3)


def test_training_moves_what_is_not_frozen():
    torch.manual_seed(0)
    encoder = ImageEncoder("small_cnn", train_from="layer3").train()
    before = copy.deepcopy(encoder.state_dict())
    optimiser = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    encoder(pictures(4, 64)).vector.square().sum().backward()
    optimiser.step()
    changed = {key.split(".")[1] for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layer3", "conv2"}
    nothing = ImageEncoder("small_cnn", train_from="conv1")
    values = pictures(2, 64)
    assert nothing.trunk(values)[0] is values and all(p.requires_grad for p in nothing.parameters())


def test_layers_that_write_in_place_leave_the_cache_alone():
    encoder = ImageEncoder("alexnet", train_from="features.1").eval()
    trunk, _ = encoder.trunk(pictures(1, 64))
    kept = trunk.clone()
    assert torch.equal(encoder(trunk, from_trunk=True).map, encoder(trunk, from_trunk=True).map)
    assert torch.equal(trunk, kept) and (trunk < 0).any()


def test_small_cnn_tells_shapes_apart():
    """Squares and crosses of random colour and place, where colour, place and area say nothing: 40 steps suffice."""
    torch.manual_seed(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        values, labels = torch.randint(0, 60, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 2
        for picture, label in zip(values, labels, strict=True):
            y, x = torch.randint(0, 17, (2,)).tolist()
            shape = torch.zeros(15, 15, dtype=torch.bool)
            shape[2:13, 2:13] = label == 0  # 121 pixels
            if label == 1:
                shape[5:10], shape[:, 5:10] = True, True  # 125 pixels
            picture[:, y : y + 15, x : x + 15][:, shape] = torch.randint(100, 256, (3, 1), dtype=torch.uint8)
        return values, labels

    encoder, classifier = ImageEncoder("small_cnn", size=32), nn.Linear(192, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *classifier.parameters()], lr=3e-3)
    for _ in range(40):
        values, labels = draw(32)
        optimiser.zero_grad()
        nn.functional.cross_entropy(classifier(encoder(values).vector), labels).backward()
        optimiser.step()
    values, labels = draw(200)
    with torch.no_grad():
        answers = classifier(encoder.eval()(values).vector).argmax(dim=1)
    assert (answers == labels).float().mean() > 0.9


def test_paths_pil_images_and_arrays_encode_alike(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    encoder = ImageEncoder("small_cnn")
    prepared = encoder.prepare(tmp_path / "a.png")
    assert prepared.shape == (3, 64, 64) and prepared.dtype == torch.uint8
    for view in range(10):
        expected = view_of(read_image(pixels), 64, view)
        assert torch.equal(encoder.prepare(tmp_path / "a.png", view), expected)
    features = encoder.encode([tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels])
    assert all(close(features.vector[b : b + 1], features.vector[:1], 1e-6) for b in range(4))
    assert encoder.training


@pytest.mark.parametrize(
    "options",
    [
        {"name": "small_cnn", "size": 32, "train_from": "layer2"},
        {"name": "mobilenet_v3_small", "layer": "features.8", "freeze": True},
        {"name": "densenet121", "size": 64, "layer": "features.transition2", "train_from": "features.denseblock2"},
    ],
)
def test_save_and_load_bit_for_bit(tmp_path, options):
    encoder = with_random_statistics(image_encoder(**options)).eval()
    encoder.save_pretrained(tmp_path)
    again = ImageEncoder.from_pretrained(tmp_path)
    assert again.config == encoder.config and again.fingerprint() == encoder.fingerprint()
    assert again.fingerprint("trunk") == encoder.fingerprint("trunk")
    values = pictures(2, encoder.size)
    assert torch.equal(again(values).map, encoder(values).map)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in encoder.parameters()]
