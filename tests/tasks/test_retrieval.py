"""The joint model, its training step, and its scores beside their controls."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.nn import functional

from mm import data, encoders
from mm.config import ConfigError
from mm.config import load as read_config
from mm.data import Entry, Item, Items, collate
from mm.data.synthetic import Scenes, analogies
from mm.index import Index
from mm.losses import order_scores
from mm.losses.settings import Name
from mm.metrics import chance, evaluate
from mm.tasks import retrieval, retrieval_data, retrieval_scores
from mm.tasks.retrieval import Objective, Retrieval, build_model
from mm.tasks.retrieval_data import caches, classes_of, training_batches
from mm.tasks.retrieval_model import JointModel

ROOT = Path(__file__).parents[2]
NAMES = [f"{a}_to_{b}" for a in data.MODALITIES for b in data.MODALITIES if a != b]
NUMBERS = ["R@1", "R@5", "R@10", "MedR", "MeanR", "mAP@10"]


@pytest.fixture
def config(tiny: list[str], tmp_path: Path) -> Callable[..., Retrieval]:
    """config("key=value", ...) is the tiny configuration with changes."""

    def read(*changes: str) -> Retrieval:
        return read_config(Retrieval, [*tiny, f"data.cache={tmp_path / 'cache'}", *changes])

    return read


@pytest.fixture(scope="session")
def items(tiny: list[str]) -> data.Items:
    return data.load(read_config(Retrieval, tiny).data, "train")


@pytest.fixture
def model(config: Callable[..., Retrieval], items: data.Items) -> JointModel:
    torch.manual_seed(0)
    return build_model(config(), data.sentences(items)).eval()


def sources_of(items: data.Items, modality: str) -> list:
    return [entry.source for entry in data.gallery(items, modality)]


def batch_of(model: JointModel, items: data.Items, modalities: tuple[str, ...] = data.MODALITIES) -> dict:
    prepare = {modality: model.encoder(modality).prepare for modality in modalities}
    return collate([{"owner": k, **{m: prepare[m](getattr(i, m)[0]) for m in prepare}} for k, i in enumerate(items)])


# The model ----------------------------------------------------------------------------------------------------------


def test_embed_is_forward_in_eval_mode(model: JointModel, items: data.Items) -> None:
    with torch.no_grad():
        forward = model(batch_of(model, items)).vectors
    for modality in data.MODALITIES:
        embedded = model.embed(modality, [getattr(item, modality)[0] for item in items])
        torch.testing.assert_close(embedded, forward[modality], rtol=0, atol=2e-6)
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(items)))


def test_a_batch_is_its_items_one_by_one(model: JointModel, items: data.Items) -> None:
    for modality in data.MODALITIES:
        sources = sources_of(items, modality)
        whole = model.embed(modality, sources)
        for size, workers in ((1, 0), (3, 2)):
            parts = model.embed(modality, sources, batch_size=size, workers=workers)
            torch.testing.assert_close(parts, whole, rtol=0, atol=2e-6)


def test_views_are_averaged(model: JointModel, items: data.Items) -> None:
    sources = sources_of(items, "image")
    encoder, single = model.encoder("image"), []
    with torch.no_grad():
        for view in range(3):
            pictures = torch.stack([encoder.prepare(source, view) for source in sources])
            single.append(model.head.embed("image", encoder(pictures)))
    expected = functional.normalize(sum(single), dim=-1)
    model.eval_views = 3
    torch.testing.assert_close(model.embed("image", sources), expected, rtol=0, atol=2e-6)
    assert not torch.allclose(expected, single[0], atol=1e-4)


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_what_a_cache_kept_gives_the_same_vectors(config, items: data.Items, modality: str) -> None:
    cfg = config(f"encoder.{modality}.freeze=true", f"encoder.{modality}.cache=true", "data.eval_views=2")
    torch.manual_seed(1)
    model = build_model(cfg, data.sentences(items)).eval()
    found = caches(model, items, cfg, 2)
    assert list(found) == [modality]
    sources = sources_of(items, modality)
    plain = model.embed(modality, sources)
    kept = model.embed(modality, sources, cache=found[modality])
    torch.testing.assert_close(kept, plain, rtol=0, atol=2e-3)  # it is kept in half precision
    assert float((plain - plain.roll(1, 0)).abs().max()) > 0.02  # while different sources are further apart


def test_training_batches_from_a_cache(config, items: data.Items) -> None:
    changes = ["encoder.image.freeze=true", "head.pool.image=vector", "data.batch_size=4"]
    vectors = []
    for cache in ("true", "false"):
        torch.manual_seed(1)
        cfg = config(*changes, f"encoder.image.cache={cache}")
        model = build_model(cfg, data.sentences(items)).eval()
        batch = next(training_batches(model, items, cfg)(3))
        assert batch["image"].values.dtype == (torch.float32 if cache == "true" else torch.uint8)
        with torch.no_grad():
            vectors.append(model(batch).vectors["image"])
    torch.testing.assert_close(*vectors, rtol=0, atol=2e-3)


def test_training_flags_come_back(model: JointModel, items: data.Items) -> None:
    model.train()
    model.head.pools.eval()
    before = {name: module.training for name, module in model.named_modules()}
    model.embed("text", ["a red circle"])
    assert {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(data.UnreadableError, match=r"no-such-picture\.jpg"):
        model.embed("image", [Path("no-such-picture.jpg")], workers=0)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_sources_that_cannot_be_embedded(model: JointModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this model embeds image, text, audio: got 'video'\. Train one that"):
        model.embed("video", ["x"])
    with pytest.raises(ValueError, match="there must be at least one text to embed: got none"):
        model.embed("text", [])
    with pytest.raises(data.UnreadableError, match=r"text 1: .*must have at least one word: got '!'"):
        model.embed("text", ["red", "!"])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(data.UnreadableError, match=r"broken\.jpg"):
        model.embed("image", [tmp_path / "broken.jpg"])


def test_the_fingerprint_changes_with_any_weight(model: JointModel) -> None:
    first = model.fingerprint()
    assert first == model.fingerprint()
    assert len(first) == 16
    seen = {first}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = tensor.clone()
            tensor[(-1,) * tensor.dim()] += 1
            assert model.fingerprint() not in seen, name
            seen.add(model.fingerprint())
            tensor.copy_(value)
    assert model.fingerprint() == first


def test_words(model: JointModel) -> None:
    assert model.unknown_words("a red giraffe and a circl") == ["giraffe", "and", "circl"]
    assert model.nearest_words("circl") == ["circle"]


@pytest.mark.parametrize("modalities", ["[image]", "[image, image]", "[image, video]", "[]"])
def test_modalities_must_be_two_or_more(config, items: data.Items, modalities: str) -> None:
    with pytest.raises(ValueError, match=r"modalities must be two or more of image, text, audio: got \["):
        build_model(config(f"modalities={modalities}"), data.sentences(items))


def test_the_embedded_world_has_one_sample_rate(config, items: data.Items) -> None:
    with pytest.raises(ValueError, match=r"sounds at 16000 Hz: got encoder\.audio\.sample_rate=8000"):
        build_model(config("data.name=synthetic", "encoder.audio.sample_rate=8000"), data.sentences(items))


def test_a_cache_of_what_trains_is_refused(config, items: data.Items) -> None:
    with pytest.raises(ValueError, match=r"encoder\.image\.cache .*nothing of image is frozen\. Set"):
        build_model(config("encoder.image.cache=true"), data.sentences(items))


# Training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", get_args(Name))
def test_a_step_gives_every_weight_a_gradient(config, items: data.Items, loss: str) -> None:
    cfg = config(f"loss.name={loss}")
    items = Items(item._replace(meta={"class": item.owner.split("-")[0]}) for item in items)
    torch.manual_seed(2)
    model = build_model(cfg, data.sentences(items), classes_of(items, cfg))
    assert (model.head.logit_bias is not None) == (loss == "siglip")
    parts = Objective(cfg.loss)(model, next(training_batches(model, items, cfg)(0)), 200)
    pairs = ["image_text_loss", "image_audio_loss", "text_audio_loss"]
    told = [f"{modality}_class_loss" for modality in data.MODALITIES] if loss == "cosine_semantic" else []
    assert list(parts) == pairs + told
    sum(parts.values()).backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)}
    assert idle <= (set() if loss in ("info_nce", "siglip") else {"head.logit_scale"})


@pytest.mark.parametrize("amp", [False, True])
def test_what_a_batch_lacks_has_no_rows(config, items: data.Items, amp: bool) -> None:
    cfg = config()
    torch.manual_seed(2)
    model = build_model(cfg, data.sentences(items))
    batch = batch_of(model, items, ("text", "image"))
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        embedded = model(batch)
        assert list(Objective(cfg.loss)(model, batch, 0)) == ["image_text_loss"]
    assert {m: tuple(v.shape) for m, v in embedded.vectors.items()} == {
        "image": (8, 32),
        "text": (8, 32),
        "audio": (0, 32),
    }
    # Processes exchange these: whether one has rows or not must not change the type.
    assert {v.dtype for v in embedded.vectors.values()} == {torch.float32}


def test_items_in_one_modality_alone_are_left_out(config, items: data.Items) -> None:
    cfg = config("modalities=[image, text]", "data.batch_size=16")
    model = build_model(cfg, data.sentences(items))
    odd = Items([*items, *(Item(f"t{k}", f"t{k}", text=("a red circle",)) for k in range(30))])
    odd.append(Item("heard", "heard", image=items[0].image, audio=items[0].audio))
    batches = training_batches(model, odd, cfg)
    assert (batches.batch_size, len(batches.dataset)) == (8, 8)


@pytest.mark.parametrize("cache", ["false", "true"])
def test_damaged_pictures_are_skipped_when_asked_to(config, items: data.Items, tmp_path: Path, cache: str) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    odd = Items([*items, Item("odd", "odd", (tmp_path / "broken.jpg",), ("a red circle",), items[0].audio)])
    changes = ("modalities=[image, text]", "encoder.image.freeze=true", f"encoder.image.cache={cache}")
    model = build_model(config(*changes), data.sentences(items))
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        for _, _batch in zip(range(2), training_batches(model, odd, config(*changes))(0), strict=False):
            pass
    batches = training_batches(model, odd, config(*changes, "data.skip_bad=true"))
    assert len(batches.dataset) == len(items)
    assert next(batches(0))["image"].rows.tolist() == list(range(8))


def test_encoders_start_from_another_run(config, tiny_run: Path) -> None:
    cfg = config(f"encoder.image.init={tiny_run}", f"encoder.text.init={tiny_run}")
    torch.manual_seed(5)
    model = build_model(cfg, ["quite different sentences"])
    trained = encoders.load(tiny_run)
    for modality in ("image", "text"):
        own, other = model.encoder(modality).state_dict(), trained[modality].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in own.items())
    assert model.encoder("text").config["words"] == trained["text"].config["words"]
    assert model.unknown_words("a red circle") == []
    fresh = {name: value for name, value in model.encoder("audio").state_dict().items() if "weight" in name}
    assert any(not torch.equal(value, trained["audio"].state_dict()[name]) for name, value in fresh.items())
    assert cfg.encoder.image.init == str(tiny_run)  # and config.yaml says so


def test_a_start_that_does_not_fit(config, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be those of|must have the shape"):
        build_model(config(f"encoder.text.init={tiny_run}", "encoder.text.hidden=64"), [])
    with pytest.raises(FileNotFoundError, match="must be a run folder"):
        build_model(config(f"encoder.text.init={tmp_path}"), [])


# Reading a run ------------------------------------------------------------------------------------------------------


def test_load_gives_the_best_weights(tiny_run: Path, items: data.Items) -> None:
    model, cfg = retrieval.load(tiny_run)
    assert not model.training
    assert cfg.out == str(tiny_run)
    folder = tiny_run / "checkpoints" / (tiny_run / "checkpoints/best").read_text().strip()
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    again, _ = retrieval.load(folder)
    assert again.fingerprint() == model.fingerprint() == Index.load(tiny_run / "index").fingerprint
    assert torch.equal(again.embed("text", ["a red circle"]), model.embed("text", ["a red circle"]))


def test_a_run_of_before_there_were_these_losses(tiny_run: Path, tmp_path: Path) -> None:
    """Its settings had a margin whatever the loss, and its checkpoints neither classes nor a memory."""
    folder = tiny_run / "checkpoints" / (tiny_run / "checkpoints" / "best").read_text().strip()
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "manifest.json").unlink()  # the sums of what is changed here
    settings = OmegaConf.load(copy / "config.yaml")
    settings.loss = {"name": "info_nce", "margin": 0.2, "warmup_steps": 200}
    OmegaConf.save(settings, copy / "config.yaml")
    model, cfg = retrieval.load(copy)
    assert (cfg.loss.margin, cfg.loss.chunk, cfg.loss.memory) == (0.2, 0, 0)
    assert model.fingerprint() == retrieval.load(tiny_run)[0].fingerprint()


def test_load_with_settings(tiny_run: Path) -> None:
    _, cfg = retrieval.load(tiny_run, ["data.eval_views=2", "data.root=elsewhere"])
    assert (cfg.data.eval_views, cfg.data.root) == (2, "elsewhere")
    with pytest.raises(ConfigError, match=r"Did you mean 'data\.eval_views'"):
        retrieval.load(tiny_run, ["data.eval_view=2"])
    for setting in ("head.embed_dim=8", "loss.name=triplet", "encoder.audio.width=99", "loop.steps=3"):
        with pytest.raises(ConfigError, match=f"data.*, encoder.*.cache and loop.device can be changed: got {setting}"):
            retrieval.load(tiny_run, [setting])
    assert retrieval.load(tiny_run, ["loop.device=cpu"])[0].encoder("text").device.type == "cpu"
    with pytest.raises(FileNotFoundError, match="there is no such path"):
        retrieval.load(tiny_run / "nothing")


def test_a_changed_bit_in_the_weights_is_noticed(tiny_run: Path, tmp_path: Path) -> None:
    folder = tiny_run / "checkpoints" / (tiny_run / "checkpoints/best").read_text().strip()
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    for load in (retrieval.load, encoders.load):
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or gone: its sha256"):
            load(copy)


# Scores and controls ------------------------------------------------------------------------------------------------


def entries_of(owners: dict[str, list[str]]) -> dict[str, list[Entry]]:
    return {m: [Entry(f"{m}{k}", owner, "", {}) for k, owner in enumerate(some)] for m, some in owners.items()}


def one_hot(owners: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    names = sorted({owner for some in owners.values() for owner in some})
    return {m: functional.one_hot(torch.tensor([names.index(o) for o in some])).float() for m, some in owners.items()}


OWNERS = {"image": [f"o{k}" for k in range(61)], "text": [f"o{k // 3}" for k in range(183)]}
OWNERS["audio"] = OWNERS["image"][::-1]


def directions(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if not name.startswith(("image+", "text+"))}


def test_perfect_vectors_score_100_and_controls_do_not(model: JointModel) -> None:
    results, controls = retrieval_scores.score(model, one_hot(OWNERS), entries_of(OWNERS), Items(), Retrieval())
    assert {name for name in results if name.endswith("R@1")} == {
        f"{name}_R@1" for name in [*NAMES, "image+text_to_audio", "image+audio_to_text", "text+audio_to_image"]
    }
    assert all(value == 1 for name, value in results.items() if name.endswith(("R@1", "R@5", "MedR")))
    assert list(controls) == ["chance", "shuffled_pairs", "constant_embeddings"]
    assert controls["chance"] == chance(OWNERS)
    assert controls["constant_embeddings"] == pytest.approx(controls["chance"], rel=1e-9)
    shuffled, expected = controls["shuffled_pairs"], controls["chance"]
    assert np.mean([shuffled[f"{n}_R@10"] for n in NAMES]) == pytest.approx(
        np.mean([expected[f"{n}_R@10"] for n in NAMES]), abs=0.05
    )


@pytest.mark.parametrize("width", [1, 7, 64])
def test_constant_embeddings_score_chance(model: JointModel, width: int) -> None:
    vectors = {m: functional.normalize(torch.ones(len(some), width), dim=-1) for m, some in OWNERS.items()}
    results, controls = retrieval_scores.score(model, vectors, entries_of(OWNERS), Items(), Retrieval())
    assert directions(results) == pytest.approx(controls["chance"], rel=1e-9)


def test_vectors_that_are_not_finite_are_an_error(model: JointModel) -> None:
    vectors = one_hot(OWNERS)
    vectors["text"][5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"text.*row 5"):
        retrieval_scores.score(model, vectors, entries_of(OWNERS), Items(), Retrieval())


def test_two_together_equal_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    owners = {"image": [f"o{k}" for k in range(12)], "text": [f"o{k % 12}" for k in range(36)]}
    owners["audio"] = [f"o{(5 * k) % 12}" for k in range(12)]
    vectors = {
        m: functional.normalize(torch.randn(len(some), 5, generator=generator), dim=-1) for m, some in owners.items()
    }
    found = retrieval_scores.score_together(vectors, owners, Retrieval())
    for first, second, other in (("image", "text", "audio"), ("image", "audio", "text"), ("text", "audio", "image")):
        hits = []
        for i, owner in enumerate(owners[first]):
            for j, partner in enumerate(owners[second]):
                if owner == partner:
                    query = vectors[first][i] + vectors[second][j]
                    scores = vectors[other] @ query
                    hits.append(owners[other][int(scores.argmax())] == owner)
        assert found[f"{first}+{second}_to_{other}_R@1"] == pytest.approx(np.mean(hits))
        assert len(hits) == max(len(owners[first]), len(owners[second]))
    assert len(found) == 3 * len(NUMBERS)


def test_what_cannot_be_joined_is_left_out() -> None:
    owners = {"image": ["a", "a", "b"], "text": ["a", "b", "b"], "audio": ["a", "b"]}
    vectors = one_hot(owners)
    joined = {name.split("_to_")[0] for name in retrieval_scores.score_together(vectors, owners, Retrieval())}
    assert joined == {"image+audio", "text+audio"}  # pictures and sentences both have several
    assert retrieval_scores.score_together({m: vectors[m] for m in ("image", "text")}, owners, Retrieval()) == {}


def order_cfg(*changes: str) -> Retrieval:
    return read_config(Retrieval, ["loss.name=order", *changes])


def by_hand(specific: torch.Tensor, abstract: torch.Tensor) -> float:
    return -float((abstract - specific).clamp_min(0).square().sum())


def test_an_order_run_is_ranked_by_its_score() -> None:
    """Against a sort of scores one by one; a sentence is more abstract than a sound, and a sound than a picture."""
    generator = torch.Generator().manual_seed(0)
    vectors = {
        m: functional.normalize(torch.rand(len(some), 5, generator=generator), dim=-1) for m, some in OWNERS.items()
    }
    found = retrieval_scores.measured(vectors, OWNERS, order_cfg())
    cosine = retrieval_scores.measured(vectors, OWNERS, Retrieval())
    assert found.keys() == cosine.keys() and found != cosine
    assert found["rsum"] == pytest.approx(sum(value for name, value in found.items() if "_R@" in name))
    for first, second in ((a, b) for a in OWNERS for b in OWNERS if a != b):
        is_specific = ("image", "audio", "text").index(first) < ("image", "audio", "text").index(second)
        ranks = []
        for query, owner in zip(vectors[first], OWNERS[first], strict=True):
            scores = [by_hand(query, x) if is_specific else by_hand(x, query) for x in vectors[second]]
            best = max(score for score, whose in zip(scores, OWNERS[second], strict=True) if whose == owner)
            ranks.append(1 + sum(score > best for score in scores))
        for k in (1, 5, 10):
            expected = sum(rank <= k for rank in ranks) / len(ranks)
            assert found[f"{first}_to_{second}_R@{k}"] == pytest.approx(expected)
        query = vectors[first][3]
        expected = [by_hand(query, x) if is_specific else by_hand(x, query) for x in vectors[second]]
        shown = retrieval_scores.similarities(first, query, second, vectors[second], order_cfg())
        torch.testing.assert_close(shown, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_controls_of_an_order_run(model: JointModel) -> None:
    results, controls = retrieval_scores.score(model, one_hot(OWNERS), entries_of(OWNERS), Items(), order_cfg())
    assert all(value == 1 for name, value in results.items() if name.endswith(("R@1", "MedR")))
    assert "image+text_to_audio_R@1" in results
    assert controls["constant_embeddings"] == pytest.approx(controls["chance"], rel=1e-9)
    assert controls["shuffled_pairs"]["text_to_image_R@1"] < 0.1
    vectors = one_hot(OWNERS)
    vectors["text"][5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"text.*row 5"):
        retrieval_scores.measured(vectors, OWNERS, order_cfg())


def test_several_order_models_are_averaged_as_several_others() -> None:
    """Side by side, the score is the mean of theirs."""
    generator = torch.Generator().manual_seed(0)
    members = [
        {m: functional.normalize(torch.rand(4, 6, generator=generator), dim=-1) for m in ("image", "text")}
        for _ in range(3)
    ]
    joined = retrieval_scores.averaged(members)
    mean = sum(order_scores(member["image"], member["text"]) for member in members) / 3
    torch.testing.assert_close(order_scores(joined["image"], joined["text"]), mean)


def test_an_order_run_has_no_index() -> None:
    retrieval.check_indexable(Retrieval())
    with pytest.raises(ConfigError, match=r"an index finds by the cosine: a run of loss\.name=order ranks by how"):
        retrieval.check_indexable(order_cfg())


@pytest.mark.parametrize("loss", ["n_pair", "order", "cosine_semantic"])
def test_vectors_of_every_loss_are_embedded_at_unit_length(config, items: data.Items, loss: str) -> None:
    model = build_model(config(f"loss.name={loss}"), data.sentences(items), ["a class"]).eval()
    with torch.no_grad():
        trained = model(batch_of(model, items)).vectors["image"]
    embedded = model.embed("image", [item.image[0] for item in items])
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(items)))
    torch.testing.assert_close(embedded, functional.normalize(trained, dim=-1), rtol=0, atol=2e-6)
    assert bool((trained.norm(dim=1) - 1).abs().max() > 0.1) == (loss == "n_pair")
    assert bool((embedded >= 0).all()) == (loss == "order")


def test_ceilings_of_the_embedded_world() -> None:
    scenes = Scenes("test", 80)
    found = retrieval_scores.ceilings(scenes)
    assert list(found) == ["perfect_decoder", "perfect_bag_of_words"]
    perfect, bag = found["perfect_decoder"], found["perfect_bag_of_words"]
    assert perfect["text_to_image_R@1"] == perfect["image_to_text_R@1"] == 1
    assert perfect["text_to_audio_R@1"] > 0.9
    assert 0.6 < bag["text_to_image_R@1"] < 0.9  # twins tie
    assert bag["text_to_image_R@5"] == 1
    assert not any(name.startswith("image_to_audio") or name == "rsum" for name in {**perfect, **bag})


class PaintBox:
    """A real embedder of colour words: each has an axis of its own, behind those of the scenes."""

    def __init__(self, scenes: Scenes):
        self.colours = sorted({thing.colour for i in range(len(scenes)) for thing in scenes.scene(i)})
        self.places = sorted({self.place(scenes.scene(i)) for i in range(len(scenes))})

    @staticmethod
    def place(scene: tuple) -> str:
        return repr([thing._replace(colour="") for thing in scene])

    def embed(self, modality: str, sources: list) -> torch.Tensor:
        assert modality == "text"
        return torch.nn.functional.one_hot(
            torch.tensor([len(self.places) + self.colours.index(word) for word in sources]),
            len(self.places) + len(self.colours),
        ).float()

    def picture(self, scene: tuple) -> torch.Tensor:
        """Where everything is, and how much there is of each colour; of unit length."""
        vector = torch.zeros(len(self.places) + len(self.colours))
        for thing in scene:
            vector[len(self.places) + self.colours.index(thing.colour)] += 1
        vector /= 2 * vector.norm()
        vector[self.places.index(self.place(scene))] = 0.75**0.5
        return vector


def test_analogies_are_solved_by_an_embedding_that_adds_colours() -> None:
    scenes = Scenes("test", 80)
    paint = PaintBox(scenes)
    images = torch.stack([paint.picture(scenes.scene(i)) for i in range(80)])
    found, controls = retrieval_scores.score_analogies(paint, scenes, images)
    assert len(analogies(scenes)) >= 10
    assert found == {"analogy_R@1": 1.0, "analogy_R@10": 1.0}
    alone = controls["image_alone"]["analogy_R@1"]
    blank = torch.nn.functional.one_hot(torch.tensor([0] * 80), images.shape[1]).float()
    nothing, _ = retrieval_scores.score_analogies(paint, scenes, blank)
    assert nothing == {"analogy_R@1": 0.0, "analogy_R@10": 0.0}
    assert alone == 1.0  # no other scene has its things in the same places: the control says what the words add


def test_complete_evaluates_items_known_in_every_modality(config, model: JointModel, items: data.Items) -> None:
    odd = Items([*items, Item("silent", "silent", items[0].image, ("a red circle",))])
    cfg = config("data.complete=true")
    assert retrieval_scores.evaluated(odd, cfg) == list(items) == retrieval_scores.evaluated(items, config())
    vectors, _ = retrieval_scores.embed_items(model, retrieval_scores.evaluated(odd, cfg), cfg)
    assert {m: len(v) for m, v in vectors.items()} == {"image": 8, "text": 16, "audio": 8}
    with pytest.raises(ValueError, match=r"1 of 9 are not, the first is 'silent'\. Set data.complete=true"):
        retrieval_scores.evaluated(odd, config())
    with pytest.raises(ValueError, match=r"1 of 1 are not, .* Choose other modalities"):
        retrieval_scores.evaluated(odd[-1:], cfg)
    apart = [item._replace(**{m: ()}) for item in items for m in data.MODALITIES]  # of one owner, like spoken digits
    assert retrieval_scores.evaluated(apart, config()) == apart


def test_folds_rank_within_parts_and_average(config, model: JointModel, items: data.Items) -> None:
    cfg = config("data.eval_folds=2")
    halves = [retrieval_scores.evaluate(model, items[part], config()) for part in (slice(4), slice(4, 8))]
    assert retrieval_scores.evaluate(model, items, cfg) == pytest.approx(
        {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    )
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    _, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    assert controls["chance"]["image_to_text_R@1"] == pytest.approx(1 / 4)
    assert controls["constant_embeddings"] == pytest.approx(controls["chance"])


def test_random_subsets_rank_within_each_draw_and_average(config, model: JointModel, items: data.Items) -> None:
    cfg = config("data.eval_subset=3")
    owners = list(dict.fromkeys(item.owner for item in items))
    draws = []
    for number in range(10):
        chosen = {owners[place] for place in np.random.default_rng(number).choice(len(owners), 3, replace=False)}
        draws.append(retrieval_scores.evaluate(model, [i for i in items if i.owner in chosen], config()))
    found = retrieval_scores.evaluate(model, items, cfg)
    ours = {name: value for name, value in found.items() if "MedR" not in name}  # whose medians are not rounded
    assert ours == pytest.approx({name: np.mean([draw[name] for draw in draws]) for name in ours})
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    _, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    assert controls["chance"]["image_to_text_R@1"] == pytest.approx(1 / 3)
    assert controls["constant_embeddings"] == pytest.approx(controls["chance"])
    with pytest.raises(ValueError, match=r"folds or random subsets: got 2 folds and subsets of 3"):
        retrieval_scores.evaluate(model, items, config("data.eval_folds=2", "data.eval_subset=3"))


@pytest.mark.parametrize("setting", ["data.views=11", "data.eval_views=0"])
def test_crops_that_there_are_not(config, setting: str) -> None:
    with pytest.raises(ValueError, match=r"data.views and data.eval_views must lie in 1..10: got"):
        build_model(config(setting), ["a red circle"])


def test_cache_dtype_is_that_on_disk(config, items: data.Items) -> None:
    cfg = config("encoder.image.freeze=true", "encoder.image.cache=true", "data.cache_dtype=float32")
    model = build_model(cfg, ["a red circle"])
    cache = caches(model, items, cfg, 1)["image"]
    exact, _ = model.encoder("image").trunk(model.encoder("image").prepare(items[0].image[0])[None])
    torch.testing.assert_close(cache.row(items[0].image[0]), exact[0], rtol=1e-5, atol=1e-6)
    assert "float32" in cache.folder.name


def test_eval_views_are_used(config, items: data.Items) -> None:
    vectors = []
    for views in (1, 2):
        cfg = config(f"data.eval_views={views}", "modalities=[image, text]")
        torch.manual_seed(0)
        model = build_model(cfg, data.sentences(items)).eval()
        vectors.append(retrieval_scores.embed_items(model, items, cfg)[0])
        torch.testing.assert_close(vectors[-1]["image"], model.embed("image", sources_of(items, "image")))
    assert not torch.allclose(vectors[0]["image"], vectors[1]["image"], atol=1e-4)
    assert torch.equal(vectors[0]["text"], vectors[1]["text"])


def test_examples_are_the_nearest(model: JointModel) -> None:
    vectors = one_hot(OWNERS)
    rows = retrieval_scores.examples(vectors, entries_of(OWNERS), Retrieval(), queries=2, k=4)
    assert len(rows) == 2 * len(NAMES)
    for query, modality, answers in rows:
        assert query.owner in OWNERS[modality]
        assert len(answers) == 4
        entry, other, cosine = answers[0]
        assert (entry.owner, cosine) == (query.owner, 1.0)
        assert other != modality
    again = retrieval_scores.examples(vectors, entries_of(OWNERS), Retrieval(), 2, 4)
    assert [r[0].id for r in rows] == [r[0].id for r in again]


def test_the_same_sentences_and_scores_whatever_the_order_of_modalities() -> None:
    found = evaluate(one_hot(OWNERS), OWNERS)
    other = evaluate(dict(reversed(one_hot(OWNERS).items())), dict(reversed(OWNERS.items())))
    assert found == pytest.approx(other)


def test_word_counts(items: data.Items) -> None:
    counts = retrieval_data.word_counts(items, 5)
    assert list(counts)[:2] in (["a", "one"], ["circle", "square"], ["a", "circle"])
    assert counts == {"a": 8, "circle": 8, "one": 8, "in": 8, "square": 8}
    assert len(retrieval_data.word_counts(items, 1)) == 9
