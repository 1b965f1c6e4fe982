"""What is explained of each task: the network gives what the model says, with a gradient to every place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mm import data, encoders
from mm.config import load as read_config
from mm.data import AskedScenes, Scenes, SoundingScenes
from mm.data.talkers import Talkers
from mm.modes import in_eval_mode
from mm.tasks import captioning, distillation, distillation_data, localisation, retrieval, separation, vqa
from mm.tasks.captioning_model import DecodingConfig
from tests.talking import untrained_run

ROOT = Path(__file__).parents[2]


def config(task: Any, kind: type, *changes: str) -> Any:
    name = task.__name__.split(".")[-1]
    return read_config(kind, ["--config", str(ROOT / f"configs/{name}/tiny.yaml"), *changes])


def built(task: Any, cfg: Any, *known: Any) -> Any:
    """A model of a task with random weights; `known`: the sentences, questions or classes that it is built for."""
    torch.manual_seed(0)
    return task.build_model(cfg, *known).eval()


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return list(data.sentences(Scenes("train", 32)))


@pytest.fixture(scope="module")
def joint(sentences: list[str]) -> Any:
    return built(retrieval, config(retrieval, retrieval.Retrieval), sentences)


@pytest.fixture(scope="module")
def answering() -> Any:
    return built(vqa, config(vqa, vqa.VQA), list(data.questions_of(AskedScenes("train", 32))))


@pytest.fixture(scope="module")
def captions(sentences: list[str]) -> Any:
    return built(captioning, config(captioning, captioning.Captioning), sentences)


@pytest.fixture(scope="module")
def localiser() -> Any:
    return built(localisation, config(localisation, localisation.Localisation))


@pytest.fixture(scope="module")
def teacher() -> Any:
    cfg = distillation.teacher_settings(config(distillation, distillation.Distillation))
    pictures = distillation_data.load_pictures(cfg, "train")
    return built(distillation, cfg, distillation_data.classes_of(pictures))


@pytest.fixture(scope="module")
def scene() -> dict[str, np.ndarray]:
    item = SoundingScenes("test", 4)[0]
    return {"image": item.image[0], "audio": item.audio[0]}


def score(view: encoders.View, seen: torch.Tensor | None = None) -> torch.Tensor:
    output = view.net(view.seen if seen is None else seen)
    return output[:, view.target] if isinstance(view.target, int) else view.target(output)


def assert_view(view: encoders.View, said: float, model: torch.nn.Module) -> None:
    """It gives what the model says, of one as of three; with a gradient, though nothing in the model has one."""
    with in_eval_mode(model):
        assert float(score(view)) == pytest.approx(said, abs=1e-5)
        noisy = view.seen + 0.1 * torch.randn(view.seen.shape, generator=torch.Generator().manual_seed(0))
        three = score(view, torch.cat([view.seen, noisy, view.seen]))
        assert torch.allclose(three, torch.cat([score(view), score(view, noisy), score(view)]), atol=1e-5)
        assert not torch.allclose(three[0], three[1], atol=1e-7)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    x = view.seen.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(view, x).sum(), x)
    for parameter in trained:
        parameter.requires_grad_(True)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("of", ["image", "audio"])
def test_a_cosine_with_a_sentence_or_with_the_other_source(joint, scene, of: str) -> None:
    own = joint.embed(of, [scene[of]])[0]
    view = joint.view(of, {of: scene[of]}, "a red circle")
    assert_view(view, float(own @ joint.embed("text", ["a red circle"])[0]), joint)
    assert "a red circle" in view.said
    other = "audio" if of == "image" else "image"
    assert_view(joint.view(of, scene), float(own @ joint.embed(other, [scene[other]])[0]), joint)


def test_a_frozen_trunk_lets_the_gradient_through(scene) -> None:
    model = built(retrieval, config(retrieval, retrieval.Retrieval, "encoder.image.freeze=true"), ["a red circle"])
    expected = float(model.embed("image", [scene["image"]])[0] @ model.embed("text", ["a red circle"])[0])
    frozen = [parameter for parameter in model.encoders["image"].parameters() if not parameter.requires_grad]
    assert frozen
    assert_view(model.view("image", {"image": scene["image"]}, "a red circle"), expected, model)
    assert not any(parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize(
    ("sources", "target", "said"),
    [
        (("image",), "", "one sentence or one other source: got neither"),
        (("image", "audio"), "a red circle", "one sentence or one other source: got audio and text"),
        (("audio",), "a red circle", "what is explained must be given: got audio, and no image"),
        (("image",), "zzz qqq", "a word that the encoder knows: got 'zzz qqq'"),
        (("image",), "squar", "Words like them: square"),
        (("image", "video"), "", "takes image and audio: got 'video'"),
    ],
)
def test_what_cannot_be_compared_is_said(joint, scene, sources, target: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        joint.view("image", {modality: scene.get(modality) for modality in sources}, target)


@pytest.mark.parametrize("of", ["image", "audio"])
def test_the_score_of_an_answer(answering, scene, of: str) -> None:
    question = "what colour is the star?"
    text = answering.encoder("text")
    with in_eval_mode(answering):
        features = {m: answering.encoder(m).encode([source]) for m, source in scene.items()}
        logits = answering.head(text.encode([question]), features).logits[0]  # (K,)
    answers = answering.head.answers
    assert_view(answering.view(of, scene, "red", question), float(logits[answers.index("red")]), answering)
    own = answering.view(of, scene, "", question)
    assert answers[own.target] == answers[int(logits.argmax())]
    with pytest.raises(ValueError, match=r"unknown answer 'rde'.*Did you mean 'red'"):
        answering.view(of, scene, "rde", question)


def test_an_answer_about_a_picture_alone(answering, scene) -> None:
    view = answering.view("image", {"image": scene["image"]}, "red", "what colour is the star?")
    (told,) = answering.answer([scene["image"]], ["what colour is the star?"], top=len(answering.head.answers))
    with in_eval_mode(answering):
        share = float(view.net(view.seen).softmax(dim=1)[0, view.target])
    assert share == pytest.approx(dict(told.top)["red"], abs=1e-5)


def test_the_words_of_a_caption(captions, scene) -> None:
    (caption,) = captions.describe([scene["image"]], DecodingConfig())
    words = [word for word in caption.words if word != "<end>"]
    source = {"image": scene["image"]}
    assert_view(captions.view("image", source), float(caption.log_probs.mean()), captions)
    short = DecodingConfig(max_length=2)
    (cut,) = captions.describe([scene["image"]], short)
    assert "<end>" not in cut.words and cut.text != caption.text
    view = captions.view("image", source, decoding=short)
    assert cut.text in view.said
    assert_view(view, float(cut.log_probs.mean()), captions)
    word = words[-1]
    own = [float(prob) for prob, one in zip(caption.log_probs, words, strict=False) if one == word]
    assert_view(captions.view("image", source, word), sum(own), captions)
    unsaid = next(word for word in captions.head.vocabulary.words if word not in words)
    assert_view(
        captions.view("image", source, unsaid), best_log_prob(captions, source["image"], words, unsaid), captions
    )
    with pytest.raises(ValueError, match=r"a word that the model knows: got 'squaer'. Nearest: .*square"):
        captions.view("image", source, "squaer")
    with pytest.raises(ValueError, match="takes image: got 'audio'"):
        captions.view("audio", {"audio": scene["audio"]})


def best_log_prob(model: Any, image: np.ndarray, words: list[str], word: str) -> float:
    """The highest log-probability of a word at any place of a sentence, place by place."""
    number = model.head.vocabulary.encode(word)[0]
    features = model.encoder.encode([image])
    found = []
    with in_eval_mode(model):
        for place in range(len(words)):
            tokens = model.head.encode(" ".join([*words[:place], word]))[None, None]  # (1, 1, L), <end> behind it
            forced = model.head(features, tokens, torch.tensor([[tokens.shape[-1]]]))
            at = int((forced.position == place).nonzero())
            found.append(float(forced.logits[at].log_softmax(dim=-1)[number]))
    return max(found)


@pytest.mark.parametrize("of", ["image", "audio"])
def test_the_cosine_of_a_place(localiser, scene, of: str) -> None:
    (located,) = localiser.localise([scene["image"]], [scene["audio"]])
    rows, columns = located.heat.shape
    assert_view(localiser.view(of, scene), located.score, localiser)
    view = localiser.view(of, scene, "0.99,0.5")
    assert_view(view, float(located.heat[rows // 2, columns - 1]), localiser)
    assert localiser.view(of, scene, "1,1").target == rows * columns - 1
    for wrong in ("0.5", "0.5,2", "left,top", "nan,0.5"):
        with pytest.raises(ValueError, match="two shares of width and height"):
            localiser.view(of, scene, wrong)
    with pytest.raises(ValueError, match="a picture and its sound: got image"):
        localiser.view("image", {"image": scene["image"]})


@pytest.mark.parametrize("face", [1, 2])
def test_the_share_of_a_voice(tmp_path: Path, face: int) -> None:
    model, _ = separation.load(untrained_run(tmp_path), ["loop.device="])
    talks = [Talkers("test", 2)[number] for number in range(2)]
    faces = [talk.face for talk in talks]
    mixture = sum(talk.voice for talk in talks)
    sources = {"audio": mixture, "video": faces}
    view = model.view("video", sources, str(face))
    wave = model.audio.prepare(mixture)
    with in_eval_mode(model):
        shown = torch.stack([model.video.prepare(one) for one in faces])[None]  # (1, S, N, 1, H, W)
        masks = model.masks(wave[None], shown, len(faces))[0, face - 1]  # (F, N)
        power = model.audio.stft(wave).abs().square()  # (F, N)
    assert_view(view, float((masks.abs().square() * power).sum() / power.sum()), model)
    assert torch.equal(model.view("video", sources).seen, model.view("video", sources, "1").seen)
    for target in ("0", "3", "left"):
        with pytest.raises(ValueError, match=r"the number of a face, in 1\.\.2"):
            model.view("video", sources, target)
    with pytest.raises(ValueError, match="give faces and a sound"):
        model.view("video", {"video": faces})
    with pytest.raises(ValueError, match="give faces and a sound"):
        model.view("audio", sources)


def test_the_logit_of_a_class(teacher, scene) -> None:
    source = {"image": scene["image"]}
    logits = teacher.read([scene["image"]]).logits[0]  # (K,)
    assert_view(teacher.view("image", source), float(logits.max()), teacher)
    name = teacher.classes[3]
    assert_view(teacher.view("image", source, name), float(logits[3]), teacher)
    with pytest.raises(ValueError, match="unknown class"):
        teacher.view("image", source, name + "x")


@pytest.mark.parametrize("name", ["vgg", "resnet", "soundnet", "yamnet"])
def test_sounds_are_seen_as_their_encoders_see_them(name: str) -> None:
    torch.manual_seed(0)
    encoder = encoders.audio_encoder(name, **({} if name == "yamnet" else {"width": 4})).eval()
    wave = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, by_parts = encoder(wave), encoder.from_seen(encoder.seen(wave))
    assert torch.equal(whole.map, by_parts.map)
    assert torch.equal(whole.vector, by_parts.vector)
    assert whole.grid == by_parts.grid


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "torchvision:squeezenet1_1"])
@pytest.mark.parametrize("freeze", [False, True])
def test_pictures_are_seen_as_their_encoders_see_them(name: str, freeze: bool) -> None:
    torch.manual_seed(0)
    encoder = encoders.image_encoder(name, size=64, freeze=freeze).eval()
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        whole, by_parts = encoder(pictures), encoder.from_seen(encoder.seen(pictures))
    assert torch.allclose(whole.map, by_parts.map, atol=1e-6)
    assert torch.allclose(whole.vector, by_parts.vector, atol=1e-6)


def test_what_has_no_places_says_so(joint) -> None:
    with pytest.raises(NotImplementedError, match="sees nothing that could be explained"):
        joint.encoder("text").seen(torch.zeros(1, 3))
