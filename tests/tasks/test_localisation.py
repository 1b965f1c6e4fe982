"""The model that localises, its training, what it reads, and its scores beside their controls."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mm.config import ConfigError
from mm.config import load as read_config
from mm.data import Inputs, Item, Items, SoundingScenes, UnreadableError
from mm.data.voices import sound
from mm.encoders import image_encoder
from mm.engine.stream import to_device
from mm.features import Features, advanced
from mm.heads import LocaliserConfig, SoundLocaliser
from mm.tasks import localisation, localisation_data, localisation_scores
from mm.tasks.localisation import Localisation, Objective
from mm.tasks.localisation_data import Target, covered
from mm.tasks.localisation_model import LocalisationModel, joined, silent_like

ROOT = Path(__file__).parents[2]
TINY = ["--config", str(ROOT / "configs/localisation/tiny.yaml"), "data.batch_size=8", "data.scenes=16"]
LOSSES = ("max", "mean", "two_way", "hard_way")


@pytest.fixture
def config() -> Callable[..., Localisation]:
    return lambda *changes: read_config(Localisation, [*TINY, *changes])


def model_of(cfg: Localisation) -> LocalisationModel:
    torch.manual_seed(cfg.seed)
    return localisation.build_model(cfg)


def learn(model: LocalisationModel, items, cfg: Localisation, steps: int) -> list[dict[str, float]]:
    """The parts of the loss at each step."""
    batches, objective = localisation_data.training_batches(model, items, cfg)(0), Objective(cfg)
    optimiser = torch.optim.Adam([p for p in model.train().parameters() if p.requires_grad], 3e-3)
    found = []
    for step in range(steps):
        parts = objective(model, to_device(next(batches), "cpu"), step)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        found.append({name: float(part.detach()) for name, part in parts.items()})
    return found


# What is learned ----------------------------------------------------------------------------------------------------


def every_sound(scenes: SoundingScenes) -> Items:
    """Each picture once with each of its things sounding, so that only the sound says where to point."""
    items = []
    for number, item in enumerate(scenes):
        for place, thing in enumerate(scenes.drawn(number)[0]):
            box = [edge / 64 for edge in item.meta["objects"][place]["box_xyxy_px"]]
            wave = sound([thing], np.random.default_rng(place), together=True, snr_db=14)
            name = f"{item.id}-{place}"
            items.append(
                Item(name, name, item.image, (), (wave,), {**item.meta, "sounding": [place], "boxes": [[box]]})
            )
    return Items(items)


def test_boxes_are_learned_by_heart_and_without_the_sound_there_is_nothing_to_learn(config) -> None:
    items = every_sound(SoundingScenes("train", 4))
    cfg = config("mode=supervised", f"data.batch_size={len(items)}")
    model = model_of(cfg)
    learn(model, items, cfg, 120)
    metrics, controls = localisation_scores.score(localisation_scores.map_items(model, items, cfg), items, cfg)
    assert metrics["top1"] > 0.95
    assert metrics["silence_AUROC"] > 0.95
    assert controls["mean_audio"]["top1"] < 0.5
    assert controls["shuffled_audio"]["top1"] < 0.5
    assert set(controls) == {
        *("whole_image", "centre_disc", "mean_prior", "random", "any_object"),
        *("shuffled_audio", "mean_audio", "silence", "noise", "object_prior"),
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", ["unsupervised", "semi"])
def test_every_loss_trains_in_every_mode(config, mode: str, loss: str) -> None:
    cfg = config(f"mode={mode}", f"loss.name={loss}", *(["labels=0.5"] if mode == "semi" else []))
    found = learn(model_of(cfg), SoundingScenes("train", 8), cfg, 25)
    expected = {"pair_loss"} if mode == "unsupervised" else {"pair_loss", "box_loss", "silence_loss"}
    assert all(set(parts) == expected for parts in found)
    assert all(np.isfinite(list(parts.values())).all() for parts in found)
    for name in expected:
        assert np.mean([parts[name] for parts in found[-3:]]) < found[0][name]


@pytest.mark.parametrize("mode", ["supervised", "unsupervised", "semi"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_one(config, mode: str, loss: str) -> None:
    name = [] if mode == "supervised" else [f"loss.name={loss}"]
    cfg = config(f"mode={mode}", *name, "data.batch_size=1", "loss.silence=0")
    found = learn(model_of(cfg), SoundingScenes("train", 2), cfg, 3)
    assert all(np.isfinite(value) for parts in found for value in parts.values())


def test_the_mode_without_boxes_never_looks_at_one(config) -> None:
    """Boxes that are wrong change nothing, and no box is asked for to choose the best weights."""
    cfg = config()
    items = Items(SoundingScenes("train", 8))
    wrong = Items(item._replace(meta={"boxes": [[[0.0, 0.0, 0.1, 0.1]]]}) for item in items)
    weights = []
    for given in (items, wrong):
        model = model_of(cfg)
        torch.manual_seed(1)
        learn(model, given, cfg, 3)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert localisation_data.decides(items, cfg) == "off_screen_AUROC"
    assert localisation_data.decides(items, config("mode=supervised")) == "top1"
    with pytest.raises(ConfigError, match="val must have two items at least, got 1"):
        localisation_data.decides(items[:1], cfg)


def test_labels_beyond_the_share_are_never_seen(config) -> None:
    cfg = config("mode=semi", "labels=0.4")
    items = Items(SoundingScenes("train", 40))
    known = [localisation_data.labelled(item, cfg) for item in items]
    assert 6 <= sum(known) <= 26
    assert known == [localisation_data.labelled(item, config("mode=semi", "labels=0.4")) for item in items]
    assert known != [localisation_data.labelled(item, config("mode=semi", "labels=0.4", "seed=1")) for item in items]
    more = [localisation_data.labelled(item, config("mode=semi", "labels=0.8")) for item in items]
    assert all(later or not earlier for earlier, later in zip(known, more, strict=True))
    target = Target(cfg, (4, 4))
    assert [bool(target(item).any()) for item in items] == known
    assert config("mode=semi").labelled == 0.1
    assert config("mode=supervised").labelled == 1
    assert config().labelled == 0


def test_the_share_of_labels_does_not_change_the_step(config) -> None:
    """The gradient of one labelled scene is that of a batch in which it is one of eight, or all eight are it."""
    cfg = config("mode=supervised", "loss.silence=0")
    model = model_of(cfg).eval()  # each scene by itself in BatchNorm
    item = SoundingScenes("train", 1)[0]
    gradients = []
    for labelled in ([True], [True] * 8, [True] + [False] * 7):
        items = Items(
            item._replace(id=str(k), meta=item.meta if known else {"objects": []}) for k, known in enumerate(labelled)
        )
        batch = next(localisation_data.training_batches(model, items, cfg)(0))
        model.zero_grad()
        Objective(cfg)(model, batch, 0)["box_loss"].backward()
        gradients.append(model.head.place.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-3, atol=1e-6)


# The model ----------------------------------------------------------------------------------------------------------


def test_localise_says_what_the_maps_say(config) -> None:
    cfg = config()
    items = Items(SoundingScenes("test", 5))
    model = model_of(cfg).eval()
    pictures, sounds = [item.image[0] for item in items], [item.audio[0] for item in items]
    located = model.localise(pictures, sounds, batch_size=2)
    mapped = localisation_scores.map_items(model, items, cfg, controls=False).own  # (n, H, W)
    head = model.head.heatmap(model.encoder("image").encode(pictures), model.encoder("audio").encode(sounds))
    for place, one in enumerate(located):
        np.testing.assert_allclose(one.heat.numpy(), mapped[place], atol=1e-4)
        torch.testing.assert_close(one.heat, head[place], rtol=1e-4, atol=1e-4)
        row, column = np.unravel_index(int(one.heat.argmax()), one.heat.shape)
        rows, columns = one.heat.shape
        assert one.peak_xy == pytest.approx(((column + 0.5) / columns, (row + 0.5) / rows))
        assert one.score == pytest.approx(float(one.heat.max()))
        alone = model.localise([pictures[place]], [sounds[place]])[0]
        torch.testing.assert_close(alone.heat, one.heat, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="each picture must have its sound: got 2 pictures, 1 sounds"):
        model.localise(pictures[:2], sounds[:1])
    with pytest.raises(ValueError, match="got 0 pictures"):
        model.localise([], [])


def test_cells_of_a_strided_network_are_moved_to_where_they_look() -> None:
    """A network of strides 2 x 2 answers to a dot: its cells' answers lie around the dot only when moved."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(layer for _ in range(2) for layer in (torch.nn.Conv2d(1, 1, 3, 2, 1, bias=False), torch.nn.ReLU()))
    )
    for layer in net[::2]:
        layer.weight.data.fill_(1.0)  # it answers as strongly wherever the dot lies in what it sees
    head = SoundLocaliser(1, 1, LocaliserConfig(embed_dim=1), strided_px=64)
    plain, moved = [], []
    for x, y in torch.randint(16, 48, (200, 2)).tolist():
        picture = torch.zeros(1, 1, 64, 64)
        picture[0, 0, y, x] = 1.0
        answer = net(picture).detach()[0, 0].flatten()[None, :, None]  # (1, 256, 1)
        for found, map in ((plain, answer), (moved, head.moved(answer, (16, 16)))):
            weights = (map / map.sum()).reshape(16, 16)
            at = (torch.arange(16) + 0.5) * 4  # px, the cells' middles
            found.append([float((weights.sum(0) * at).sum()) - x - 0.5, float((weights.sum(1) * at).sum()) - y - 0.5])
    assert np.mean(plain, axis=0) == pytest.approx([1.5, 1.5], abs=0.15)  # (stride - 1) / 2 px too far down and right
    assert np.mean(moved, axis=0) == pytest.approx([0.0, 0.0], abs=0.15)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "mobilenet_v2", "vgg16"])
def test_cells_of_an_encoder_look_where_they_lie_once_moved(name: str) -> None:
    """The middle of what moves a cell, by the square of the gradient, is the middle of its cell."""
    torch.manual_seed(0)
    encoder = image_encoder(name, size=64 if name == "small_cnn" else 224).eval()
    head = SoundLocaliser(encoder.dim, 4, LocaliserConfig(), encoder.strided_px)
    pictures = torch.rand(4, 3, encoder.size, encoder.size).requires_grad_()
    cells = encoder.tail(pictures * 255)
    rows, columns = cells.grid
    middle = head.moved(cells.map, cells.grid).unflatten(1, cells.grid)[:, rows // 2, columns // 2]  # (B, D)
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), pictures)
    strength = gradient.square().sum((0, 1))  # (H, W)
    at = torch.arange(encoder.size) + 0.5
    looks = [float((strength.sum(axis) * at).sum() / strength.sum()) for axis in (1, 0)]
    cell_px = encoder.size / rows
    lies = (rows // 2 + 0.5) * cell_px
    assert np.abs(np.array(looks) - lies).max() < 0.2 * cell_px


def test_advanced_lies_between_neighbours_and_goes_on_at_the_edge() -> None:
    map = torch.arange(12.0).reshape(1, 12, 1)
    moved = advanced(map, (3, 4), 0.25).reshape(3, 4)
    for row in range(3):
        for column in range(4):
            expected = min(row + 0.25, 2) * 4 + min(column + 0.25, 3)
            assert float(moved[row, column]) == pytest.approx(expected)
    assert torch.equal(advanced(map, (3, 4), 0.0), map)


def test_silent_clips_are_as_long_as_the_others_and_next_to_silent() -> None:
    torch.manual_seed(0)
    silent = silent_like(Inputs(torch.zeros(4, 700), None, torch.arange(4)), 200)
    assert silent.shape == (200, 700)
    level = silent.std(dim=1).log10()
    assert level.min() < -7 and -1.2 < level.max() < -0.4
    assert silent_like(Inputs(torch.zeros(4, 7, 5), None, torch.arange(4)), 1).shape == (1, 16000)


def test_batches_of_two_lengths_are_joined() -> None:
    values, lengths = joined(torch.ones(2, 5), torch.tensor([5, 3]), 2 * torch.ones(1, 7), None)
    assert values.tolist() == [[1] * 5 + [0, 0]] * 2 + [[2] * 7]
    assert lengths is not None and lengths.tolist() == [5, 3, 7]
    values, lengths = joined(torch.ones(2, 5), None, torch.ones(1, 5), None)
    assert lengths is None and len(values) == 3
    cells, lengths = joined(torch.ones(1, 2, 4), None, torch.ones(1, 3, 4), None)
    assert cells[0].sum() == 8 and lengths is not None and lengths.tolist() == [2, 3]


def test_silence_beside_frozen_and_cached_sounds(config, tmp_path: Path) -> None:
    given = ["encoder.audio.freeze=true", "encoder.audio.cache=true", f"data.cache={tmp_path}", "loss.silence=0.5"]
    cached, plain = config(*given), config("encoder.audio.freeze=true", "loss.silence=0.5")
    items = Items(SoundingScenes("train", 8))
    vectors = []
    for cfg in (cached, plain):
        model = model_of(cfg)
        batch = next(localisation_data.training_batches(model, items, cfg)(0))
        silent = torch.zeros(4, 16000)
        vectors.append(model.eval()(batch, silent).sounds)  # (B + k, E)
    torch.testing.assert_close(vectors[0], vectors[1], rtol=2e-3, atol=2e-3)  # half precision on disk
    assert len(vectors[0]) == 12


def test_a_batch_in_which_a_picture_has_no_sound(config) -> None:
    model = model_of(config())
    pictures = Inputs(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), None, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="every item must have a picture and a sound: got 2 and 1"):
        model({"image": pictures, "audio": Inputs(torch.zeros(1, 1600), None, torch.tensor([1]))})


# What is read -------------------------------------------------------------------------------------------------------


def shares_by_pixels(boxes: list, grid: tuple[int, int], fine: int = 40) -> Tensor:
    """The share of each cell, by looking at `fine` x `fine` points of each."""
    rows, columns = grid
    count = torch.zeros(rows, columns)
    for row in range(rows * fine):
        for column in range(columns * fine):
            y, x = (row + 0.5) / (rows * fine), (column + 0.5) / (columns * fine)
            inside = sum(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)
            count[row // fine, column // fine] += inside
    return (count / count.sum()).flatten()


def test_targets_are_the_shares_of_the_boxes(config) -> None:
    cfg = config("mode=supervised")
    for marked in (
        [[[0.1, 0.2, 0.35, 0.9]]],
        [[[0.0, 0.0, 0.3, 0.5]], [[0.1, 0.1, 0.5, 0.5]]],  # two annotators
        [[[0.05, 0.05, 0.3, 0.3], [0.6, 0.5, 1.0, 1.0]]],  # two sources
    ):
        item = Item("a", "a", meta={"boxes": marked})
        found = Target(cfg, (3, 4))(item)
        assert float(found.sum()) == pytest.approx(1) and found[-1] == 0
        boxes = [box for boxes in marked for box in boxes]
        torch.testing.assert_close(found[:-1], shares_by_pixels(boxes, (3, 4)), atol=0.01, rtol=0)
    noise = Target(cfg, (3, 4))(SoundingScenes("train", 1, sources=0)[0])
    assert noise.tolist() == [0] * 12 + [1]
    assert not Target(cfg, (3, 4))(Item("b", "b")).any()
    with pytest.raises(ValueError, match=r"c: its boxes .* cover nothing of the picture"):
        Target(cfg, (3, 4))(Item("c", "c", meta={"boxes": [[[0.5, 0.5, 0.5, 0.5]]]}))


def test_covered_parts_of_the_unit() -> None:
    np.testing.assert_allclose(covered(0.25, 0.7, 4), [0, 1, 0.8, 0])
    np.testing.assert_allclose(covered(-1, 2, 2), [1, 1])


def test_pairs_that_lack_something_are_named_and_counted(caplog) -> None:
    picture, clip = (np.zeros((8, 8, 3), np.uint8),), (np.ones(8, np.float32),)
    items = [Item("a", "a", image=picture), Item("b", "b", audio=clip), Item("c", "c", image=picture, audio=clip)]
    with pytest.raises(UnreadableError, match="a has no audio: every item must have a picture and a sound"):
        localisation_data.paired(items, "test", skip=False)
    kept = localisation_data.paired(items, "train", skip=True)
    assert [item.id for item in kept] == ["c"]
    assert "left out 2 unreadable rows" in caplog.text and "b has no image" in kept.skipped[1]


def test_silent_training_clips_are_an_error_or_left_out(config, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    items = []
    for name, peak in (("loud", 0.5), ("silent", 0.0), ("soft", 0.01), ("quiet", 0.3)):
        time_s = np.arange(1600) / 16000
        soundfile.write(tmp_path / f"{name}.wav", peak * np.sin(900 * time_s), 16000)
        items.append(Item(name, name, (picture,), (), (tmp_path / f"{name}.wav",)))
    cfg = config("data.batch_size=4")
    model = model_of(cfg)
    with pytest.raises(UnreadableError, match=r"silent\.wav is silent: its peak is below 0.0001"):
        next(localisation_data.training_batches(model, Items(items), cfg)(0))
    cfg = config("data.batch_size=4", "data.skip_bad=true")
    batches = localisation_data.training_batches(model, Items(items), cfg)
    assert [item.id for item in batches.dataset.items] == ["loud", "soft", "quiet"]
    frozen = config("encoder.audio.freeze=true", "encoder.audio.cache=true", f"data.cache={tmp_path / 'cache'}")
    with pytest.raises(UnreadableError, match=r"silent\.wav is silent"):
        localisation_data.training_batches(model_of(frozen), Items(items), frozen)


# Scores -------------------------------------------------------------------------------------------------------------


class Perfect:
    """Scores as a model gives them that knows the boxes: high inside, and nowhere for what does not belong."""

    def __init__(self, items, side: int = 16):
        self.own = np.zeros((len(items), side, side), np.float32)
        at = (np.arange(side) + 0.5) / side
        for scores, item in zip(self.own, items, strict=True):
            for left, top, right, bottom in item.meta["boxes"][0]:
                down, across = (at >= top) & (at < bottom), (at >= left) & (at < right)
                x, y = (left + right) / 2, (top + bottom) / 2
                near = 1 - (at[:, None] - y) ** 2 - (at - x) ** 2
                scores[:] = np.maximum(scores, down[:, None] * across * near)
        nothing = np.full_like(self.own, -0.1)
        self.others = {"silence": nothing, "noise": nothing, "shuffled_audio": nothing[::-1]}


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_a_perfect_map_scores_all_there_is(config, sources: int) -> None:
    items = Items(SoundingScenes("test", 40, sources=sources))
    metrics, controls = localisation_scores.score(Perfect(items), items, config("rule=per_image"))
    for name in ("top1", "pointing", "silence_AUROC", "noise_AUROC", "off_screen_AUROC", "upper_bound@0.5"):
        assert metrics[name] == 1, name
    assert metrics.get("all_found") == (1 if sources > 1 else None)
    assert metrics["AUC"] > 0.6  # cells are coarse
    assert controls["any_object"]["top1"] == pytest.approx(sources / 3.5, abs=0.05)
    assert controls["whole_image"]["top1"] < 0.15 * sources
    assert not {"upper_bound@0.5", "upper_bound_AUC"} & set(controls["random"])


def test_a_split_without_boxes_is_told_and_still_compared_with_other_sounds(config, caplog) -> None:
    items = Items(SoundingScenes("test", 6, sources=0))
    mapped = localisation_scores.map_items(model_of(config()), items, config())
    with caplog.at_level("INFO"):
        metrics, controls = localisation_scores.score(mapped, items, config())
    assert "no box of this split is known" in caplog.text
    assert set(metrics) == {"silence_AUROC", "noise_AUROC", "off_screen_AUROC"} and controls == {}


def test_the_other_sound_is_of_another_class_and_owner() -> None:
    kinds = [Item(str(k), str(k), meta={"category": "ab"[k % 2]}) for k in range(10)]
    found = localisation_scores.others(kinds, np.random.default_rng(0))
    assert all((k + other) % 2 for k, other in enumerate(found))
    alone = localisation_scores.others([Item(str(k), str(k)) for k in range(10)], np.random.default_rng(0))
    assert all(k != other for k, other in enumerate(alone)) and len(set(alone)) == 10
    one_class = [Item(str(k), str(k), meta={"category": "dog"}) for k in range(10)]
    assert all(k != other for k, other in enumerate(localisation_scores.others(one_class, np.random.default_rng(0))))
    unseen = localisation_scores.others(kinds, np.random.default_rng(0), by_class=False)
    assert any((k + other) % 2 == 0 for k, other in enumerate(unseen))
    same = [Item(str(k), "one") for k in range(3)]
    assert localisation_scores.others(same, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_mapping_leaves_the_model_as_it_was_and_draws_nothing(config) -> None:
    cfg = config()
    model = model_of(cfg).train()
    before = torch.random.get_rng_state()
    localisation_scores.evaluate(model, Items(SoundingScenes("val", 4)), cfg)
    assert model.training and torch.equal(before, torch.random.get_rng_state())


def test_a_silent_test_clip_is_told(config, caplog, tmp_path: Path) -> None:
    cfg = config()
    items = Items(SoundingScenes("test", 3))
    items[1] = items[1]._replace(audio=(np.zeros(16000, np.float32),))
    localisation_scores.evaluate(model_of(cfg), items, cfg)
    said = "1 of 3 sounds are silent and count all the same: ['test-00001']"
    assert said in caplog.text
    caplog.clear()
    cached = config("encoder.audio.freeze=true", "encoder.audio.cache=true", f"data.cache={tmp_path}")
    localisation_scores.map_items(model_of(cached), items, cached)
    assert said in caplog.text


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["labels=0.5"], "labels=0.5 has no effect here"),
        (["threshold=0.7"], "threshold=0.7 has no effect here"),
        (["loss.name=hard_way", "head.temperature=0.5"], "head.temperature=0.5 has no effect here"),
        (["mode=supervised", "loss.name=two_way"], "loss.name=two_way has no effect here"),
        (["loss.labelled=2.0"], "loss.labelled=2.0 has no effect here"),
        (["data.name=videos", "data.sources=2"], "data.sources=2 has no effect here"),
        (["encoder.text.hidden=3"], "encoder.text.hidden=3 has no effect here"),
        (["data.views=2"], "data.views=2 has no effect here"),
        (["mode=semi", "labels=1.5"], "labels and loss.silence must lie in 0..1"),
        (["loss.silence=-0.1"], "labels and loss.silence must lie in 0..1"),
        (["mode=semi", "loss.labelled=0"], "loss.labelled above 0"),
        (["encoder.audio.sample_rate=8000"], "the embedded world sounds at 16000 Hz"),
        (["head.embed_dim=0"], "head.embed_dim must be at least 1"),
        (["head.temperature=-1"], "head.temperature 0 or at least 0.01"),
        (["encoder.image.cache=true"], "nothing of image is frozen"),
    ],
)
def test_settings_that_do_not_fit(config, given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        localisation.build_model(config(*given))


def test_a_map_of_one_cell_has_nowhere_to_point(config) -> None:
    cfg = config("encoder.image.layer=avgpool")
    with pytest.raises(ConfigError, match=r"a map must have cells to point at: got \(1, 1\)"):
        localisation_data.training_batches(model_of(cfg), SoundingScenes("train", 8), cfg)


def test_a_higher_threshold_predicts_less(config) -> None:
    items = Items(SoundingScenes("test", 20))
    found = {
        t: localisation_scores.score(Perfect(items), items, config("rule=fixed", f"threshold={t}"))[0]["AUC"]
        for t in (0.3, 0.995)
    }
    assert found[0.3] > 0.6 > found[0.995]


def test_boxes_to_learn_from_must_be_there(config, tmp_path: Path) -> None:
    rows = ["id,split,image,audio"]
    for split in ("train", "val", "test"):
        for kind in ("png", "wav"):
            (tmp_path / f"{split}.{kind}").touch()
        rows.append(f"{split},{split},{split}.png,{split}.wav")
    (tmp_path / "own.csv").write_text("\n".join(rows))
    cfg = config("mode=supervised", "data.name=table", f"data.file={tmp_path / 'own.csv'}")
    with pytest.raises(ConfigError, match="of 1 training items of 'table' none is labelled at labels=1"):
        localisation_data.load(cfg)


def test_a_padded_map_of_an_image_is_no_reason_to_point_there() -> None:
    """The head takes any features; places that are padding never are the peak."""
    torch.manual_seed(0)
    head = SoundLocaliser(6, 4, LocaliserConfig(embed_dim=3))
    mask = torch.tensor([[True] * 6 + [False] * 3])
    image = Features(torch.randn(1, 9, 6), mask, torch.zeros(1, 6), (3, 3))
    audio = Features(torch.randn(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.randn(1, 4), (1,))
    assert int(head.heatmap(image, audio).argmax()) < 6
