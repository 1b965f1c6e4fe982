import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mm.encoders import TorchvisionEncoder, TransformersImageEncoder, image_encoder


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


# Any torchvision model ----------------------------------------------------------------------------------------------


def test_torchvision_adapter_equals_the_table(tmp_path):
    torch.manual_seed(1)
    state = with_random_statistics(torchvision.models.resnet18(weights=None)).state_dict()
    torch.save(state, tmp_path / "w.pth")
    ours = image_encoder("resnet18", weights=str(tmp_path / "w.pth")).eval()
    adapted = image_encoder("torchvision:resnet18", size=64, weights=str(tmp_path / "w.pth")).eval()
    assert isinstance(adapted, TorchvisionEncoder) and adapted.layer == "layer4.1.relu_1"
    values = pictures(2, 64)
    assert close(adapted(values).map, ours(values).map) and close(adapted(values).vector, ours(values).vector)
    middle = image_encoder("torchvision:resnet18", size=64, layer="layer3", weights=str(tmp_path / "w.pth"))
    assert middle.dim == 256 and middle(values).grid == (4, 4)
    assert not any(key.startswith("net.layer4") for key in middle.state_dict())
    with pytest.raises(ValueError, match="missing"):
        torch.save({k: v for k, v in state.items() if k != "bn1.weight"}, tmp_path / "w.pth")
        image_encoder("torchvision:resnet18", size=64, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("freeze", [False, True])
def test_torchvision_adapter(tmp_path, freeze):
    encoder = with_random_statistics(image_encoder("torchvision:shufflenet_v2_x0_5", size=64, freeze=freeze))
    encoder.save_pretrained(tmp_path)
    again = TorchvisionEncoder.from_pretrained(tmp_path)
    values = pictures(2, 64)
    assert torch.equal(again(values).map, encoder.eval()(values).map) and again.fingerprint() == encoder.fingerprint()
    assert encoder.vector_dim == 1024 and torch.equal(copy.deepcopy(encoder)(values).map, again(values).map)
    assert not copy.deepcopy(encoder).net.training
    single = torch.cat([encoder(values[b : b + 1]).map for b in range(2)])
    assert close(encoder(values).map, single)
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    trunk, _ = encoder.trunk(values)
    assert torch.equal(encoder(trunk, from_trunk=True).map, encoder(values).map) == freeze or not freeze
    assert any(p.requires_grad for p in encoder.parameters()) != freeze
    changed = [key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(changed) != freeze


def test_torchvision_adapter_rejects():
    with pytest.raises(ValueError, match=r"unknown torchvision model 'resnet19'.*Did you mean 'resnet"):
        image_encoder("torchvision:resnet19")
    with pytest.raises(ValueError, match=r"unknown layer of shufflenet_v2_x0_5 'stage9'.*Did you mean 'stage"):
        image_encoder("torchvision:shufflenet_v2_x0_5", size=64, layer="stage9")
    with pytest.raises(ValueError, match=r"a layer must give \(B, C, H, W\).*'fc' of shufflenet_v2_x0_5 gives"):
        image_encoder("torchvision:shufflenet_v2_x0_5", size=64, layer="fc")
    with pytest.raises(ValueError, match="train_from works for small_cnn"):
        image_encoder("torchvision:resnet18", train_from="layer4")
    with pytest.raises(ValueError, match="unknown image encoder 'timm:resnet18'"):
        image_encoder("timm:resnet18")


# Any transformers vision model --------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 32, "patch_size": 8}


def vision_config(kind: str):
    import transformers

    if kind == "resnet":
        return transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic"
        )
    if kind == "swin":
        return transformers.SwinConfig(
            embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2, image_size=32, patch_size=2
        )
    return {"vit": transformers.ViTConfig, "registers": transformers.Dinov2WithRegistersConfig}[kind](
        **SMALL, **PATCHES
    )


@pytest.mark.parametrize(
    ("kind", "size", "grid"),
    [("vit", 0, (4, 4)), ("registers", 0, (4, 4)), ("resnet", 64, (2, 2)), ("swin", 0, (8, 8))],
)
def test_transformers_vision_models(tmp_path, kind, size, grid, caplog):
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(vision_config(kind)).eval()
    model.save_pretrained(tmp_path / "theirs")
    encoder = image_encoder(f"transformers:{tmp_path / 'theirs'}", size=size, weights="DEFAULT").eval()
    assert "ImageNet's mean and deviation are taken" in caplog.text
    x = torch.randn(2, 3, encoder.size, encoder.size)
    with torch.no_grad():
        features, state = encoder(x), model(pixel_values=x).last_hidden_state
    expected = state.flatten(2).transpose(1, 2) if state.dim() == 4 else state[:, -grid[0] * grid[1] :]
    assert features.grid == grid and torch.equal(features.map, expected)
    token = kind in ("vit", "registers")
    assert close(features.vector, state[:, 0] if token else expected.mean(dim=1))
    assert ("net.pooler.dense.weight" in {n for n, p in encoder.named_parameters() if not p.requires_grad}) == (
        kind == "vit"
    )

    # the saved folder alone is enough
    encoder.save_pretrained(tmp_path / "ours")
    (tmp_path / "theirs").rename(tmp_path / "gone")
    again = TransformersImageEncoder.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(again(x).map, features.map)
    assert again.fingerprint() == encoder.fingerprint()
    assert str(tmp_path) not in (tmp_path / "ours" / "config.json").read_text()


def test_transformers_model_of_two_towers_with_its_own_pixels(tmp_path):
    import transformers

    towers = transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**SMALL, **PATCHES},
    )
    model = transformers.AutoModel.from_config(towers).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    encoder = image_encoder(f"transformers:{tmp_path}", weights="DEFAULT", freeze=True).train()
    values = pictures(2, 32)
    x = (values / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    expected = model.vision_model(pixel_values=x).last_hidden_state
    trunk, _ = encoder.trunk(values)
    assert close(trunk, expected) and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder(trunk, from_trunk=True).vector, trunk[:, 0])
    random = image_encoder(f"transformers:{tmp_path}")
    assert not close(random.eval()(values).map, expected[:, 1:], 0.1)


def test_transformers_models_that_cannot_be(tmp_path):
    import transformers

    model = transformers.AutoModel.from_config(vision_config("vit"))
    state = {k: v for k, v in model.state_dict().items() if "layernorm_after" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    for freeze in (False, True):
        with pytest.raises(ValueError, match=r"must hold all weights of ViTModel: missing \[.*layernorm_after"):
            image_encoder(f"transformers:{tmp_path}", weights="DEFAULT", freeze=freeze)
    with pytest.raises(ValueError, match="layer must be empty"):
        image_encoder(f"transformers:{tmp_path}", layer="layer4")
    with pytest.raises(ValueError, match=r"must be '' or 'DEFAULT', its own: got 'w\.pth'"):
        image_encoder(f"transformers:{tmp_path}", weights="w.pth")
    with pytest.raises(ValueError, match="train_from works for"):
        image_encoder(f"transformers:{tmp_path}", train_from="layer4")
