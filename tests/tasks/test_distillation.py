"""Teacher and student: what they learn from and what they do not, what they read, and their scores."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data
from mm.config import ConfigError
from mm.config import load as read_config
from mm.data import Item, Items
from mm.engine.stream import to_device
from mm.features import Features
from mm.heads import LinearClassifier
from mm.tasks import distillation, distillation_data, distillation_scores
from mm.tasks.distillation import Distillation
from mm.tasks.distillation_data import OneThing, ShuffledPairs
from mm.tasks.distillation_model import ClassModel

ROOT = Path(__file__).parents[2]
SMALL = ["encoder.audio.width=4", "encoder.audio.bands=16", "data.batch_size=12", "data.scenes=48"]
TINY = ["--config", str(ROOT / "configs/distillation/tiny.yaml"), *SMALL]
COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220)}


@pytest.fixture
def config() -> Callable[..., Distillation]:
    return lambda *changes: read_config(Distillation, [*TINY, *changes])


def pairs_of(n: int, seed: int = 0) -> Items:
    """Pictures of one colour each beside a tone of its own, in noise; the owner is the colour."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(3200) / 16000
    items = []
    for number in range(n):
        name = list(COLOURS)[number % 3]
        picture = np.clip(np.array(COLOURS[name]) + generator.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        tone = 0.3 * np.sin(2 * np.pi * 400 * 2 ** (number % 3) * time_s) + generator.normal(0, 0.02, 3200)
        items.append(Item(f"pair-{number}", name, (picture,), audio=(tone.astype(np.float32),)))
    return Items(items)


def learn(model: ClassModel, batches, objective, steps: int, lr: float = 5e-3) -> list[float]:
    """The losses of so many steps."""
    iterator = batches(0)
    optimiser = torch.optim.Adam(model.train().parameters(), lr)
    losses = []
    for step in range(steps):
        parts = objective(model, to_device(next(iterator), "cpu"), step)
        loss = next(part for name, part in parts.items() if name.endswith("loss"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def teacher_of(cfg: Distillation, items: Items, steps: int = 40) -> ClassModel:
    cfg = distillation.teacher_settings(cfg)
    torch.manual_seed(cfg.seed)
    teacher = distillation.build_model(cfg, distillation_data.classes_of(items))
    learn(
        teacher, distillation_data.picture_batches(teacher, items, cfg), distillation.Teaching(teacher.classes), steps
    )
    return teacher.eval()


def student_of(cfg: Distillation, items: Items, teacher: ClassModel, steps: int) -> ClassModel:
    torch.manual_seed(cfg.seed)
    student = distillation.build_model(cfg, teacher.classes)
    batches = distillation_data.training_batches(student, items, cfg, teacher)
    learn(student, batches, distillation.Objective(teacher, cfg.temperature), steps)
    return student.eval()


# What is learned ----------------------------------------------------------------------------------------------------


def test_a_student_hears_what_its_teacher_sees_and_with_wrong_pictures_nothing(config) -> None:
    train, test = pairs_of(48), pairs_of(60, seed=1)
    cfg = config()
    teacher = teacher_of(cfg, train)
    assert distillation_scores.evaluate_teacher(teacher, test) == {"accuracy": 1.0}
    student = student_of(cfg, train, teacher, 60)
    control = student_of(config("shuffle_pairs=true"), train, teacher, 60)
    metrics, controls = distillation_scores.score(student, teacher, control, test, train, cfg)
    assert metrics == {"probe_accuracy": 1.0, "zero_shot_accuracy": 1.0, "agreement": 1.0}
    third = pytest.approx(1 / 3)
    assert controls["chance"] == {"probe_accuracy": third, "zero_shot_accuracy": third, "agreement": third}
    assert controls["most_frequent"] == controls["chance"]
    assert controls["random_encoder"].keys() == controls["spectrogram"].keys() == {"probe_accuracy"}
    assert controls["teacher"] == {"zero_shot_accuracy": 1.0}
    assert controls["shuffled_pairs"]["zero_shot_accuracy"] < 0.7  # one class of three, or two by luck
    names = ["chance", "most_frequent", "teacher", "spectrogram", "random_encoder", "shuffled_pairs"]
    assert list(controls) == names


def test_no_class_of_a_sound_is_read_while_training(config) -> None:
    items = pairs_of(24)
    cfg = config()
    teacher = teacher_of(cfg, items, 5)
    renamed = Items(item._replace(owner=f"nobody-{number % 5}", meta={"x": 1}) for number, item in enumerate(items))
    one, other = (student_of(cfg, each, teacher, 8).state_dict() for each in (items, renamed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[k], w) for k, w in student_of(cfg, pairs_of(24, 1), teacher, 8).state_dict().items())


def test_the_teacher_stays_as_it_is(config) -> None:
    items = pairs_of(24)
    cfg = config()
    teacher = teacher_of(cfg, items, 5).train()  # as whoever forgets eval() leaves it
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student_of(cfg, items, teacher, 8)
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # BatchNorm statistics too
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


def test_the_steps_of_teacher_and_student_against_loops(config) -> None:
    items = pairs_of(12)
    cfg = config()
    teacher = teacher_of(cfg, items, 3)
    batch = next(distillation_data.picture_batches(teacher, items, cfg)(0))
    said = teacher(batch).detach().log_softmax(dim=1)
    names = {data.stable_id(name): k for k, name in enumerate(teacher.classes)}
    right = [names[owner] for owner in batch["owner"][:, 0].tolist()]
    found = distillation.Teaching(teacher.classes)(teacher, batch, 0)
    assert found["class_loss"].item() == pytest.approx(-np.mean([said[i, k].item() for i, k in enumerate(right)]))
    assert found["accuracy"].item() == pytest.approx(np.mean(said.argmax(1).numpy() == right))

    student = distillation.build_model(cfg, teacher.classes).eval()
    batch = next(distillation_data.training_batches(student, items, cfg, teacher)(0))
    found = distillation.Objective(teacher, 2.0)(student, batch, 0)
    p, q = ((model(batch).detach() / 2).softmax(dim=1) for model in (teacher, student))
    assert found["distillation_loss"].item() == pytest.approx(4 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)
    assert found["agreement"].item() == pytest.approx((p.argmax(1) == q.argmax(1)).float().mean().item())


def test_a_temperature_and_the_views_arrive(config) -> None:
    items = pairs_of(12)
    student = distillation.build_model(config(), ["a", "b"])
    for changes, views in (["data.views=2"], 2), ([], 1):
        cfg = config(*changes)
        batches = distillation_data.training_batches(student, items, cfg, teacher_of(cfg, items, 1))
        assert batches.dataset.views == views


# What is read -------------------------------------------------------------------------------------------------------


def test_scenes_of_one_thing_whose_owner_says_what_it_is() -> None:
    scenes = OneThing("train", 40, seed=3)
    for item in scenes:
        (thing,) = item.meta["objects"]
        assert item.owner == f"{thing['colour']} {thing['shape']}" in distillation_data.CLASSES
        assert item.meta["sounding"] == [0] and len(item.image) == len(item.audio) == 1
    assert len(scenes) == 40 and len(distillation_data.CLASSES) == 48
    with pytest.raises(IndexError):
        scenes[40]


def test_the_teacher_learns_from_other_pictures_than_the_pairs_show(config) -> None:
    cfg = config("data.scenes=30")
    pictures, pairs = distillation_data.load_pictures(cfg, "train"), distillation_data.load_pairs(cfg, "train")
    assert {item.id for item in pictures}.isdisjoint(item.id for item in pairs)
    assert len(pictures) == len(pairs) == 30
    again = distillation_data.load_pairs(config("data.scenes=20"), "train")
    assert np.array_equal(again[7].image[0], pairs[7].image[0])


def test_spoken_digits_in_pairs(real_data) -> None:
    root = real_data("fsdd").parent
    file = ROOT / "configs/distillation/spoken_digits.yaml"
    cfg = read_config(Distillation, ["--config", str(file), f"data.root={root}"])
    pictures, pairs = distillation_data.load_pictures(cfg, "train"), distillation_data.load_pairs(cfg, "train")
    distillation_data.check_pairs(pairs)
    assert distillation_data.classes_of(pictures) == [str(digit) for digit in range(10)]
    seen, shown = ({id(source) for item in items for source in item.image} for items in (pictures, pairs))
    assert seen.isdisjoint(shown) and abs(len(seen) - len(shown)) <= 10
    assert len(pairs) == 2400 and not any(item.text for item in pairs)
    test = distillation_data.load_pairs(cfg, "test")
    assert len(test) == 300 and all(len(item.image) == len(item.audio) == 1 for item in test)
    of_class = {id(item.image[0]): item.owner for item in distillation_data.load_pictures(cfg, "test")}
    assert all(of_class[id(item.image[0])] == item.owner for item in test)
    assert len({id(item.image[0]) for item in test}) == 300  # in turn


def test_shuffled_pairs_have_the_same_sounds_and_pictures_and_say_nothing() -> None:
    items = pairs_of(300)
    shuffled = ShuffledPairs(items, seed=0)
    assert len(shuffled) == 300
    assert all(new.audio is old.audio and new.id == old.id for new, old in zip(shuffled, items, strict=True))
    pictures = [[id(item.image[0]) for item in each] for each in (items, shuffled)]
    assert sorted(pictures[0]) == sorted(pictures[1])
    of_picture = {id(item.image[0]): item.owner for item in items}
    met = Counter((item.owner, of_picture[id(item.image[0])]) for item in shuffled)
    assert len(met) == 9 and max(met.values()) < 50  # 33 expected
    assert pictures[1] == [id(item.image[0]) for item in shuffled]  # once and for all
    assert pictures[1] != [id(item.image[0]) for item in ShuffledPairs(items, seed=1)]


def test_shuffled_pairs_are_what_the_control_trains_on(config) -> None:
    items = pairs_of(12)
    cfg = config("shuffle_pairs=true")
    teacher = teacher_of(cfg, items, 1)
    student = distillation.build_model(cfg, teacher.classes)
    plain, shuffled = (
        next(distillation_data.training_batches(student, items, each, teacher)(0)) for each in (config(), cfg)
    )
    assert torch.equal(plain["audio"].values, shuffled["audio"].values)
    assert not torch.equal(plain["image"].values, shuffled["image"].values)
    rows = [sorted(map(tuple, batch["image"].values.flatten(1).tolist())) for batch in (plain, shuffled)]
    assert rows[0] == rows[1]


def test_sounds_without_a_picture_are_tested_with_one_of_their_class() -> None:
    red, blue, other = "red.png", "blue.png", "other.png"
    items = [
        Item("1", "red", audio=("1.wav", "1b.wav")),
        Item("2", "red", audio=("2.wav",)),
        Item("3", "red", audio=("3.wav",)),
        Item("4", "blue", (blue,), audio=("4.wav",)),
        Item("5", "red", (red, other)),
    ]
    found = distillation_data.with_pictures(Items(items), "some")
    assert [(item.id, item.image, item.audio) for item in found] == [
        ("1", (red,), ("1.wav",)),
        ("2", (other,), ("2.wav",)),
        ("3", (red,), ("3.wav",)),
        ("4", (blue,), ("4.wav",)),
    ]
    with pytest.raises(ValueError, match=r"the sound 1 of 'some' needs a picture.* none of the class 'red'"):
        distillation_data.with_pictures(Items(items[:4]), "some")
    with pytest.raises(ValueError, match="'some' must have sounds to test on"):
        distillation_data.with_pictures(Items(items[4:]), "some")


def test_the_probe_is_fitted_on_a_few_sounds_of_each_class() -> None:
    items = Items([*pairs_of(30), Item("alone", "white")])
    for seed in range(5):
        found = distillation_data.few(items, 4, seed)
        assert Counter(item.owner for item in found) == {"red": 4, "green": 4, "blue": 4, "white": 1}
        assert len({item.id for item in found}) == 13
    assert {item.id for item in found} != {item.id for item in distillation_data.few(items, 4, seed=0)}
    of_world = distillation_data.few(OneThing("train", 4000, seed=0), 2, seed=0)
    assert Counter(item.owner for item in of_world) == dict.fromkeys(distillation_data.CLASSES, 2)


# Model and scores ---------------------------------------------------------------------------------------------------


def test_the_classifier_is_linear_over_the_normalised_vector() -> None:
    torch.manual_seed(0)
    head = LinearClassifier(6, 3)
    vector = torch.randn(4, 6)
    logits = head(Features(torch.zeros(4, 2, 5), torch.ones(4, 2, dtype=torch.bool), vector, (2,)))
    centred = vector - vector.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(logits, normal @ head.classify.weight.T + head.classify.bias)


def test_sounds_of_different_lengths_are_read_as_one_by_one(config) -> None:
    model = distillation.build_model(config(), ["a", "b", "c"]).train()
    waves = [item.audio[0][: 3200 - 400 * number] for number, item in enumerate(pairs_of(5))]
    together = model.read(waves, batch_size=3)
    assert model.training
    for number, wave in enumerate(waves):
        alone = model.read([wave])
        torch.testing.assert_close(alone.logits[0], together.logits[number], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(alone.vectors[0], together.vectors[number], atol=1e-4, rtol=1e-3)
    shares = together.logits.softmax(dim=1)
    told = model.classify(waves, top=2)
    for row, best in zip(shares, told, strict=True):
        assert [name for name, _ in best] == [model.classes[k] for k in row.argsort(descending=True)[:2].tolist()]
        assert [share for _, share in best] == pytest.approx(row.sort(descending=True).values[:2].tolist(), abs=1e-4)
    assert len(model.classify(waves[:1])[0]) == 3
    with pytest.raises(ValueError, match="top must be at least 1: got 0"):
        model.classify(waves, top=0)
    with pytest.raises(ValueError, match="at least one audio to classify: got none"):
        model.read([])


def test_a_random_encoder_has_learned_nothing_and_draws_nothing(config, tmp_path: Path) -> None:
    items = pairs_of(24)
    cfg = config()
    student = student_of(cfg, items, teacher_of(cfg, items, 2), 4)
    sounds, state = distillation_data.first_sources(items, "audio"), torch.get_rng_state()
    models = [distillation_scores.untrained(student, sounds, cfg) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    one, two = (model.encoder.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)
    torch.manual_seed(cfg.seed)
    fresh = distillation.build_model(cfg, student.classes).encoder
    for name, weight in fresh.named_parameters():
        assert torch.equal(weight, one[name])
    assert not torch.equal(one["input_norm.running_mean"], fresh.input_norm.running_mean)  # it has heard some sounds
    student.encoder.save_pretrained(tmp_path / "start")
    cfg.encoder.audio.init = str(tmp_path / "start")
    again = distillation_scores.untrained(student, sounds, cfg).encoder.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_a_teacher_of_other_classes_has_no_zero_shot_accuracy(config) -> None:
    items = pairs_of(24)
    cfg = config()
    other = Items(item._replace(owner=f"{item.owner}ish") for item in items)
    teacher = teacher_of(cfg, other, 3)
    student = student_of(cfg, items, teacher, 2)
    metrics, controls = distillation_scores.score(student, teacher, None, items, items, cfg)
    assert list(metrics) == ["probe_accuracy", "agreement"]
    assert list(controls) == ["chance", "most_frequent", "spectrogram", "random_encoder"]
    assert controls["most_frequent"]["agreement"] >= 1 / 3  # of what the teacher says


def test_a_spectrogram_is_probed_by_its_mean_and_peak_over_time(config) -> None:
    import librosa

    (item,) = pairs_of(1)
    wave = item.audio[0]
    power = librosa.feature.melspectrogram(
        y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, window="hamming", n_mels=64, pad_mode="constant"
    )
    spec = 10 * np.log10(np.maximum(power, 1e-10))
    spec = np.maximum(spec - spec.max(), -80) * np.log(10) / 10  # (64, N)
    encoder = distillation.build_model(config(), ["a", "b"]).encoder
    found = distillation_scores.spectrogram_vectors(encoder, [item])
    np.testing.assert_allclose(found, [np.concatenate([spec.mean(1), spec.max(1)])], atol=5e-3)
    louder = item._replace(audio=(wave / 3,))
    np.testing.assert_allclose(distillation_scores.spectrogram_vectors(encoder, [louder]), found, atol=2e-2)


def test_scores_of_a_teacher(config) -> None:
    items = pairs_of(12)
    teacher = distillation.build_model(config("learner=teacher"), sorted(COLOURS))
    metrics, controls = distillation_scores.score_teacher(teacher, Items([*items, *items[:1]]))
    right = [teacher.classify(item.image, top=1)[0][0][0] == item.owner for item in [*items, items[0]]]
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert controls == {"chance": {"accuracy": pytest.approx(1 / 3)}, "most_frequent": {"accuracy": 5 / 13}}


# What is rejected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["temperature=0"], "temperature must be positive and probe_shots at least 1: got 0.0 and 2"),
        (["probe_shots=0"], "got 1.0 and 0"),
        (["data.views=0"], r"data.views must lie in 1..10: got 0"),
        (["encoder.audio.sample_rate=8000"], "the embedded world sounds at 16000 Hz: got"),
        (["encoder.audio.name=resent"], "unknown audio encoder 'resent'.*Did you mean 'resnet'"),
        (["encoder.text.hidden=9"], "encoder.text.hidden=9 has no effect here"),
        (["encoder.image.cache=true"], "encoder.image.cache=True has no effect here"),
        (["encoder.audio.cache=true"], "encoder.audio.cache=True has no effect here"),
        (["data.eval_views=2"], "data.eval_views=2 has no effect here"),
        (["data.name=mixed", "data.sets={esc10: 1}"], "distillation learns the classes of one set"),
        (["teacher=runs/x"], "encoder.image.size=32 has no effect here: leave out, or give encoder.image.size=0"),
        (["learner=teacher", "temperature=2"], "temperature=2.0 has no effect here"),
        (["learner=teacher", "shuffle_pairs=true"], "shuffle_pairs=True has no effect here"),
        (["learner=teacher", "probe_shots=9"], "probe_shots=9 has no effect here"),
        (["learner=teacher", "teacher=runs/x"], "teacher=runs/x has no effect here"),
    ],
)
def test_wrong_settings(config, changes: list[str], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        distillation.build_model(config(*changes), ["a", "b"])


def test_training_items_that_are_no_pairs(config) -> None:
    items = pairs_of(6)
    cfg = config()
    teacher = teacher_of(cfg, items, 1)
    student = distillation.build_model(cfg, teacher.classes)
    for changed, missing in ({"image": ()}, "picture"), ({"audio": ()}, "sound"):
        wrong = Items([*items[:4], items[4]._replace(**changed), items[5]])
        with pytest.raises(ValueError, match=f"pair-4 has no {missing}. Complete it, or take it out of the train"):
            distillation_data.training_batches(student, wrong, cfg, teacher)
    with pytest.raises(ValueError, match="pair-4 has no picture and no sound"):
        distillation_data.check_pairs([items[4]._replace(image=(), audio=())])


def test_pictures_without_classes() -> None:
    items = pairs_of(6)
    for wrong, count in ([item._replace(owner=item.id) for item in items], 6), (items[::3], 1):
        with pytest.raises(ValueError, match=f"classes that several pictures share: got {count} of {len(wrong)} pict"):
            distillation_data.classes_of(wrong)


def test_damaged_files_are_left_out_and_their_pairs_with_them(config, own_table: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    items = pairs_of(6)
    good, bad = own_table.parent / "red-circle.wav", tmp_path / "bad.wav"
    files = [good, good, bad, good, bad, good]
    cfg = config("data.skip_bad=true")
    teacher = teacher_of(cfg, items, 1)
    items = Items(item._replace(audio=(file,)) for item, file in zip(items, files, strict=True))
    student = distillation.build_model(cfg, teacher.classes)
    left = distillation_data.training_batches(student, items, cfg, teacher).dataset.items
    assert [item.id for item in left] == ["pair-0", "pair-1", "pair-3", "pair-5"]
