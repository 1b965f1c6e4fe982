"""Captions: the training step, beam search and scoring."""

import importlib.util
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.plain_decoder import PlainDecoder, renamed
from benchmarks.result import STATUS, Result, alternate, extra_memory_mb, in_own_process
from mm.data.synthetic import Scenes
from mm.engine import keep_freed_memory
from mm.features import Features
from mm.heads import LSTMDecoder, beam_search
from mm.losses import word_loss
from mm.metrics.captions import evaluate, ptb_tokenize
from mm.vocabulary import END, PAD, SPECIALS, START

Step = Callable[[], Tensor]


def decoder(dim: int, words: int, hidden: int) -> LSTMDecoder:
    """The decoder of Xu et al. 2015 without dropout, so that two of it compute one function."""
    torch.manual_seed(0)
    return LSTMDecoder(
        dim,
        dim,
        words,
        attention="soft",
        ask="state",
        gate="scalar",
        deep_output=True,
        see_dim=0,
        positions=False,
        word_dim=256,
        hidden=hidden,
        dropout=0.0,
        hard_test="argmax",
        hard_expected=0.5,
    )


def features(inputs: int, side: int, dim: int) -> Features:
    """Maps of side x side places, each input with something in all of its places that others lack."""
    generator = torch.Generator().manual_seed(1)
    map = torch.randn(inputs, side * side, dim, generator=generator)  # (B, N, D)
    map = map + torch.randn(inputs, 1, dim, generator=generator)  # (B, N, D)
    return Features(map, torch.ones(map.shape[:2], dtype=torch.bool), map.mean(dim=1), (side, side))


def sentences(count: int, shortest: int, longest: int, words: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, 1 + longest) from <start> to <end>, and how many are real (B,): 1 + shortest to 1 + longest."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.randint(shortest, longest + 1, (count,), generator=generator)  # (B,)
    steps[0] = longest
    tokens = torch.randint(len(SPECIALS), words, (count, 1 + longest), generator=generator)  # (B, L)
    tokens[:, 0] = START
    tokens[torch.arange(count), steps] = END
    return tokens.masked_fill(torch.arange(1 + longest) > steps[:, None], PAD), steps + 1


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """What the last backward left, by the names of the parameters."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def training_steps(
    batch_size: int, side: int, dim: int, words: int, hidden: int, shortest: int, longest: int
) -> tuple[LSTMDecoder, Step, PlainDecoder, Step]:
    """Our decoder, its step (loss and backward), the plain one with the same weights, and its step."""
    ours, given = decoder(dim, words, hidden), features(batch_size, side, dim)
    plain, (tokens, lengths) = PlainDecoder(ours), sentences(batch_size, shortest, longest, words)

    def loss() -> Tensor:
        told = ours.forced(tokens[:, None], lengths[:, None], ours.memory(given))
        return word_loss(told.logits, tokens[told.sentence, told.position + 1])

    def step(model: nn.Module, loss: Step) -> Tensor:
        model.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    plain_loss = partial(plain.loss, given.map, tokens, lengths)
    return ours, partial(step, ours, loss), plain, partial(step, plain, plain_loss)


def step_memory_mb(is_plain: int, *sizes: int) -> float:
    """What two training steps need at their peak beside weights and features, gradients included."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    _, ours, _, plain = training_steps(*sizes)
    step = plain if is_plain else ours
    return extra_memory_mb(lambda: [step() for _ in range(2)])


def bench_training_step(
    batch_size: int = 32,
    side: int = 14,
    dim: int = 512,
    words: int = 9490,
    hidden: int = 512,
    shortest: int = 21,
    longest: int = 21,
    repeats: int = 5,
) -> Iterator[Result]:
    """Loss and gradients of a batch against the plain decoder: time and memory."""
    sizes = (batch_size, side, dim, words, hidden, shortest, longest)
    ours, our_step, plain, plain_step = training_steps(*sizes)
    cpu, _, (loss, expected) = alternate(repeats, our_step, plain_step)
    found, wanted = renamed(gradients(ours), ours.parts), gradients(plain)
    apart = max(float((found[name] - wanted[name]).abs().max() / wanted[name].abs().max()) for name in wanted)
    checks = {
        "loss, relative": (float((loss - expected).abs() / expected), 1e-6),
        "gradients, relative": (apart if found.keys() == wanted.keys() else math.nan, 1e-5),
    }
    lengths = f"{shortest}..{longest}" if shortest < longest else f"{longest}"
    setting = f"batch {batch_size}, {side}x{side}x{dim}, V = {words}, hidden {hidden}, {lengths} steps"
    yield Result("caption_step", "CPU s", *cpu, 2.8, checks, f"{setting}; keys and logits at every step")
    if STATUS.exists():
        peaks = [in_own_process(step_memory_mb, number, *sizes) for number in (0, 1)]
        yield Result("caption_step, memory", "MB", *peaks, 3.0, {}, f"{setting}; peak of a process of its own")


@torch.no_grad()
def writers(dim: int, words: int, hidden: int, end: float) -> tuple[LSTMDecoder, PlainDecoder]:
    """Our decoder and the plain one, whose sentences differ from input to input as those of a trained one do.

    Args:
        dim, words, hidden: sizes.
        end: added to the logit of <end>.
    """
    model = decoder(dim, words, hidden).eval()
    model.embedding.weight.mul_(10)
    model.output.weight.mul_(20)
    model.output.bias[END] += end
    return model, PlainDecoder(model)


@torch.no_grad()
def bench_beam(
    images: int = 32,
    side: int = 14,
    dim: int = 512,
    words: int = 9490,
    hidden: int = 512,
    beam: int = 5,
    steps: int = 20,
    end: float = -1e4,
    repeats: int = 3,
) -> Iterator[Result]:
    """Beam search over a batch against one image after the other.

    Args:
        images: how many.
        side, dim, words, hidden: sizes of the decoder and of what it sees.
        beam: sentences under way.
        steps: tokens at most.
        end: added to the logit of <end>. By default no sentence ends, and both sides take all steps: where sentences
            end, ours is ahead by more, for it stops when nothing can overtake the best.
        repeats: of each.
    """
    (model, plain), given = writers(dim, words, hidden, end), features(images, side, dim)

    def batched() -> list[list[int]]:
        memory = model.memory(given)
        found = beam_search(model.step, model.start(memory), memory, beam=beam, max_length=steps)
        return [written.tokens.tolist() for written in found]

    jobs = (
        batched,
        lambda: [plain.write(map, beam, steps) for map in given.map],
        lambda: [plain.write(map, beam, steps, keys_once=True) for map in given.map],
    )
    cpu, _, (found, *expected) = alternate(repeats, *jobs)
    differ = sum(any(row != each[i] for each in expected) for i, row in enumerate(found))
    checks: dict[str, tuple[float, float]] = {f"sentences that differ, of {images}": (differ, 0)}
    setting = f"k = {beam}, {images} images, {steps} steps, V = {words}; one image at a time with keys at every step"
    setting += f" ({cpu[2] / cpu[0]:.2f} with keys once an image)"
    yield Result("caption_beam", "CPU s", *cpu[:2], 7.0, checks, setting)


def captions_of_scenes(images: int) -> tuple[dict[int, str], dict[int, list[str]]]:
    """One caption of each scene of the embedded world, and the other four as its references; written as people do."""
    scenes = Scenes("train", images)
    texts = {i: [f"{caption.text.capitalize()}." for caption in scenes.captions(i)] for i in range(images)}
    return {i: first for i, (first, *_) in texts.items()}, {i: others for i, (_, *others) in texts.items()}


def official_scores(
    captions: Mapping[int, str], references: Mapping[int, list[str]], java: bool
) -> dict[str, list[float]]:
    """The metrics as COCO's evaluation computes them: the number of the corpus, then those of the images.

    Args:
        captions: of each image.
        references: of each image.
        java: whether its own tokeniser is there; else the words are ours.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokenised(texts: Mapping[int, list[str]]) -> dict[int, list[str]]:
        if java:
            return PTBTokenizer().tokenize({i: [{"caption": text} for text in each] for i, each in texts.items()})
        return {i: [" ".join(ptb_tokenize(text)) for text in each] for i, each in texts.items()}

    truth, said = tokenised(references), tokenised({i: [caption] for i, caption in captions.items()})
    corpus, each = Bleu(4).compute_score(truth, said, verbose=0)
    scores = {f"BLEU-{n + 1}": [corpus[n], *each[n]] for n in range(4)}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        mean, each = scorer.compute_score(truth, said)
        scores[name] = [mean, *each]
    return scores


def bench_scores(images: int = 5000, repeats: int = 3) -> Iterator[Result]:
    """Words, BLEU, ROUGE-L and CIDEr of captions against pycocoevalcap."""
    given = captions_of_scenes(images)
    official, java = importlib.util.find_spec("pycocoevalcap") is not None, shutil.which("java") is not None
    jobs = [partial(evaluate, *given)] + [partial(official_scores, *given, java)] * official
    cpu, _, (ours, *theirs) = alternate(repeats, *jobs)
    checks, setting = {}, f"{images} captions, 4 references each"
    if official:
        found = {name: [ours.corpus[name], *ours.each[name]] for name in theirs[0]}
        apart = max(abs(a - b) for name in found for a, b in zip(found[name], theirs[0][name], strict=True))
        checks = {"difference": (float(apart), 1e-9)}
        setting += "; pycocoevalcap with " + ("Java's tokeniser" if java else "OUR TOKENISER, for there is NO JAVA")
    else:
        cpu, setting = [*cpu, math.nan], f"{setting}; pycocoevalcap IS NOT INSTALLED: pip install mm[metrics]"
    yield Result("caption_scores", "CPU s", *cpu, 4.0, checks, setting)
