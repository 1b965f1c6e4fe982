"""Word vectors: what they are learned from, what is learned, what is asked of them, what is refused."""

import collections
import dataclasses
import itertools
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional

from mm.config import DataConfig, LoopConfig, OptimConfig
from mm.encoders.word_vectors import read_word_vectors
from mm.engine import Stream, fit, seed_everything
from mm.tasks import words, words_data, words_pairs, words_scores
from mm.tasks.words import SkipGram, Words, WordVectors, three_cos_add
from mm.tasks.words_analogies import KINDS, answerable, own_questions, read_questions
from mm.tasks.words_data import END, Corpus, TextLines, encoded
from mm.tasks.words_pairs import PairBatches, kept_shares, near_pairs, noise_shares
from mm.vocabulary import Vocabulary, tokenize

Pair = tuple[int, int]


def settings(**changes) -> Words:
    batch_size = changes.pop("batch_size", 64)
    return Words(data=DataConfig(name="text", file="text.txt", batch_size=batch_size), **{"subsample": 0.0} | changes)


def corpus_of(sentences: list[str], batch_size: int = 64, min_count: int = 1) -> tuple[list[str], Corpus]:
    found = Vocabulary.build(sentences, min_count).words
    with tempfile.TemporaryFile() as file:
        return found, encoded(sentences, found, batch_size, file)


def random_sentences(n: int, vocabulary: int = 30, longest: int = 12) -> list[str]:
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, vocabulary + 1)
    lengths = generator.integers(1, longest + 1, n)
    drawn = generator.choice(vocabulary, int(lengths.sum()), p=shares / shares.sum())
    return [" ".join(f"w{k}" for k in part) for part in np.split(drawn, lengths.cumsum()[:-1])]


def pairs_of(batch: dict[str, torch.Tensor]) -> list[Pair]:
    return list(zip(batch["words"][batch["centres"]].tolist(), batch["contexts"].tolist(), strict=True))


# Text -> numbers ----------------------------------------------------------------------------------------------------


def test_a_corpus_is_the_sentences_without_rare_words() -> None:
    sentences = ["A dog runs, a dog!", "...", "the cat", "a cat runs"]
    found, corpus = corpus_of(sentences, batch_size=4, min_count=2)
    assert found == ["a", "cat", "dog", "runs"]
    assert corpus.tokens.tolist() == [0, 2, 3, 0, 2, END, 1, END, 0, 1, 3, END]
    assert corpus.counts.tolist() == [3, 2, 2, 2]
    assert corpus.starts.tolist() == [0, 6, 12]


@pytest.mark.parametrize("flushed", [1, 7, 1000])
def test_batches_are_whole_sentences_wherever_the_file_is_written(monkeypatch, flushed: int) -> None:
    monkeypatch.setattr(words_data, "FLUSHED", flushed)
    sentences = random_sentences(200)
    found, corpus = corpus_of(sentences, batch_size=50)
    naive = [[found.index(word) for word in tokenize(sentence)] for sentence in sentences]
    assert corpus.tokens.tolist() == [number for sentence in naive for number in [*sentence, END]]
    sizes = [sum(corpus.tokens[a:b] != END) for a, b in itertools.pairwise(corpus.starts)]
    assert all(corpus.tokens[end - 1] == END for end in corpus.starts[1:])
    assert sum(sizes) == corpus.counts.sum() == sum(map(len, naive))
    assert all(50 <= size < 50 + 12 for size in sizes[:-1]) and 50 <= sizes[-1] < 100 + 12


def test_only_so_many_words_are_read() -> None:
    sentences = random_sentences(200)
    found = Vocabulary.build(sentences).words
    read = iter(sentences)
    with tempfile.TemporaryFile() as file:
        corpus = encoded(read, found, 50, file, most=100)
    assert 100 <= len(corpus.tokens) < 115
    assert len(list(read)) > 150


def test_sentences_of_one_word_are_nothing_to_learn_from() -> None:
    with pytest.raises(
        ValueError, match="the text must have a sentence with two words of the vocabulary: there is none"
    ):
        corpus_of(["dog", "cat", "dog"])
    with pytest.raises(ValueError, match="at least one word must occur 5 times"):
        corpus_of(["a dog and a cat"], min_count=5)


def test_the_lines_of_a_file_are_divided_among_the_splits(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(105)]
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    splits = ("train", "val", "test")
    found = {split: [line.strip() for line in TextLines(tmp_path / "text.txt", split)] for split in splits}
    assert found["val"] == lines[18:100:20] and found["test"] == lines[19:100:20]
    assert found["train"] == [line for line in lines if line not in found["val"] + found["test"]]
    again = TextLines(tmp_path / "text.txt", "val")
    assert list(again) == list(again)


@pytest.mark.parametrize("separator", [" ", ""])
def test_a_file_of_one_endless_line_is_read_in_parts(tmp_path: Path, separator: str) -> None:
    text = separator.join("abcdefgh\u00e9\u72ac"[k % 10] * (1 + k % 7) for k in range(20_000))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    parts = list(TextLines(tmp_path / "text.txt", "train"))
    parts += [part for split in ("val", "test") for part in TextLines(tmp_path / "text.txt", split)]
    assert len(parts) > 8 and max(map(len, parts)) <= words_data.LINE_BYTES + 7
    assert collections.Counter(separator.join(parts).split()) == collections.Counter(text.split()) or not separator
    assert sum(len(part.replace(" ", "")) for part in parts) == len(text.replace(" ", ""))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.file must be a text file, a sentence a line: .*none\.txt not"):
        TextLines(tmp_path / "none.txt", "train")
    (tmp_path / "latin.txt").write_bytes(b"a dog\na caf\xe9 \n" * 3)
    with pytest.raises(ValueError, match=r"line 2 of .*latin\.txt must be text in UTF-8: invalid continuation byte"):
        list(TextLines(tmp_path / "latin.txt", "train"))


# Numbers -> pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5, 20])
def test_pairs_are_those_of_a_loop_over_windows(window: int) -> None:
    generator = np.random.default_rng(window)
    sentence = np.repeat(np.arange(40), generator.integers(0, 9, 40))
    reach = generator.integers(1, window + 1, len(sentence))
    naive = [
        (i, j)
        for i in range(len(sentence))
        for j in range(max(0, i - reach[i]), min(len(sentence), i + reach[i] + 1))
        if i != j and sentence[i] == sentence[j]
    ]
    first, second = near_pairs(sentence, reach)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == naive
    assert (np.diff(first) >= 0).all()
    nothing = near_pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    assert [len(places) for places in nothing] == [0, 0]


def test_an_epoch_has_every_pair_of_neighbours_once() -> None:
    sentences = random_sentences(300)
    found, corpus = corpus_of(sentences)
    batches = PairBatches(corpus, corpus.counts, settings(window=1))
    numbers = [[found.index(word) for word in tokenize(sentence)] for sentence in sentences]
    expected = collections.Counter(
        pair for one in numbers for a, b in itertools.pairwise(one) for pair in ((a, b), (b, a))
    )
    for epoch in (0, 1):
        ks = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        assert collections.Counter(pair for k in ks for pair in pairs_of(batches.batch(k))) == expected
    orders = [[batches.place(k) for k in range(e * batches.per_epoch, (e + 1) * batches.per_epoch)] for e in (0, 1)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(batches.per_epoch))


def test_near_words_are_paired_more_often_than_far_ones() -> None:
    """A reach drawn from 1 to w makes a pair at distance d with the chance (w - d + 1) / w."""
    found, corpus = corpus_of([" ".join(f"w{k}" for k in range(30))] * 2000)
    batches = PairBatches(corpus, corpus.counts, settings(window=4))
    place = {number: int(word[1:]) for number, word in enumerate(found)}
    distances: collections.Counter[int] = collections.Counter()
    for k in range(batches.per_epoch):
        distances.update(place[b] - place[a] for a, b in pairs_of(batches.batch(k)))
    assert set(distances) == {-4, -3, -2, -1, 1, 2, 3, 4}
    for distance, count in distances.items():
        far = abs(distance)
        assert count == pytest.approx(2000 * (30 - far) * (5 - far) / 4, rel=0.03)


def test_frequent_words_are_left_out_by_the_published_share() -> None:
    """Mikolov et al. 2013, eq. 5: a word of the share f of the text is left out with 1 - sqrt(t / f)."""
    sentences = random_sentences(4000)
    found, corpus = corpus_of(sentences)
    cfg = settings(subsample=0.02)
    batches = PairBatches(corpus, corpus.counts, cfg)
    read = sum(
        np.bincount(batches.batch(k)["words"].numpy(), minlength=len(found)) for k in range(3 * batches.per_epoch)
    )
    counts = collections.Counter(word for sentence in sentences for word in tokenize(sentence))
    total = sum(counts.values())
    for number, word in enumerate(found):
        left_out = max(0.0, 1 - (0.02 / (counts[word] / total)) ** 0.5)
        n = 3 * counts[word]
        spread = (n * left_out * (1 - left_out)) ** 0.5
        assert abs(read[number] - n * (1 - left_out)) <= 4.5 * spread
    assert kept_shares(corpus.counts, 0.02)[0] < 0.3 and kept_shares(corpus.counts, 0.02)[-1] == 1
    assert kept_shares(corpus.counts, 0).tolist() == [1] * len(found)


def test_noise_follows_the_counts_to_the_power_of_three_quarters() -> None:
    _, corpus = corpus_of(random_sentences(2000))
    batches = PairBatches(corpus, corpus.counts, settings(noise=5000))
    drawn = np.bincount(torch.cat([batches.batch(k)["noise"] for k in range(40)]).numpy(), minlength=30)  # (V,)
    weights = [count**0.75 for count in corpus.counts.tolist()]
    expected = [200_000 * weight / sum(weights) for weight in weights]
    assert chisquare(drawn, expected).pvalue > 0.001
    unigrams = 200_000 * corpus.counts / corpus.counts.sum()
    assert chisquare(drawn, unigrams).pvalue < 1e-6
    assert noise_shares(np.array([16, 1])).tolist() == pytest.approx([8 / 9, 1 / 9])


def test_a_batch_follows_from_the_seed_and_its_number() -> None:
    _, corpus = corpus_of(random_sentences(300))
    cfg = settings(subsample=0.05)
    batches = PairBatches(corpus, corpus.counts, cfg)
    stream = [batch for batch, _ in zip(batches(), range(3 * batches.per_epoch), strict=False)]
    resumed = PairBatches(corpus, corpus.counts, cfg)(len(stream) - 5)
    for k in range(len(stream) - 5, len(stream)):
        again = next(resumed)
        assert again.keys() == stream[k].keys()
        assert all(torch.equal(again[name], stream[k][name]) for name in again), k
    other = PairBatches(corpus, corpus.counts, dataclasses.replace(cfg, seed=1)).batch(0)
    assert not torch.equal(other["noise"], stream[0]["noise"])
    assert not torch.equal(stream[1]["noise"], stream[0]["noise"])
    assert torch.equal(stream[0]["pairs"], torch.bincount(stream[0]["centres"], minlength=len(stream[0]["words"])))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_pairs_of_a_batch(world: int) -> None:
    found, corpus = corpus_of(random_sentences(300))
    cfg = settings(subsample=0.05, dim=8)
    torch.manual_seed(0)
    model = SkipGram(found, corpus.counts.tolist(), 8)
    torch.nn.init.normal_(model.context.weight)
    step = words.Objective(5)
    ranks = [PairBatches(corpus, corpus.counts, cfg, rank, world) for rank in range(world)]
    for k in range(4):
        whole = PairBatches(corpus, corpus.counts, cfg).batch(k)
        parts = [batches.batch(k) for batches in ranks]
        assert sorted(pair for part in parts for pair in pairs_of(part)) == sorted(pairs_of(whole))
        assert max(len(part["words"]) for part in parts) - min(len(part["words"]) for part in parts) <= 1
        losses = [step(model, part, 0)["skip_gram_loss"].item() for part in parts]
        assert sum(losses) / world == pytest.approx(step(model, whole, 0)["skip_gram_loss"].item(), rel=1e-5)


def test_a_batch_without_pairs_costs_nothing() -> None:
    found, corpus = corpus_of(["a b", *["c"] * 200], batch_size=10)
    batches = PairBatches(corpus, corpus.counts, settings())
    model = SkipGram(found, corpus.counts.tolist(), 4)
    alone = next(batch for k in range(batches.per_epoch) if not len((batch := batches.batch(k))["contexts"]))
    loss = words.Objective(5)(model, alone, 0)["skip_gram_loss"]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.item() == 0 and not any(gradient.any() for gradient in gradients)


# What is learned ----------------------------------------------------------------------------------------------------

ROWS, COLUMNS = 6, 4


def grid_language(n: int) -> list[str]:
    """Words w<row><column>, each between a word of its row and one of its column: (r c):(r c') as (r' c):(r' c')."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, [ROWS, COLUMNS, 3, 3], (n, 4)).tolist()
    return [f"row{r}{one} w{r}{c} column{c}{other}" for r, c, one, other in drawn]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Words]:
    """A run on the grid language, with the questions that it plants."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "text.txt").write_text("\n".join(grid_language(6000)))
    lines = [": rows"]
    for (r, q), (c, d) in itertools.product(
        itertools.permutations(range(ROWS), 2), itertools.permutations(range(COLUMNS), 2)
    ):
        lines.append(f"W{r}{c} W{r}{d} W{q}{c} W{q}{d}")
    (folder / "questions.txt").write_text("\n".join([*lines, ": unknown", "w00 w01 w10 king"]))
    cfg = Words(
        out=str(folder / "run"),
        dim=16,
        window=2,
        subsample=0.0,
        noise=64,
        analogies=str(folder / "questions.txt"),
        data=DataConfig(name="text", file=str(folder / "text.txt"), batch_size=512),
        optim=OptimConfig(lr=2e-2, weight_decay=0.0, warmup_steps=10),
        loop=LoopConfig(steps=500, evaluate_every=0, tensorboard=False),
    )
    words.check(cfg)
    found, corpus = words_data.training_corpus(cfg)
    seed_everything(cfg.seed)
    model = SkipGram(found, corpus.counts.tolist(), cfg.dim)
    val = words_scores.held_out(cfg, model, "val")
    fit(
        model,
        [Stream("words", words_pairs.training_batches(corpus, cfg), words.Objective(cfg.negatives))],
        cfg,
        evaluate=lambda model: words_scores.evaluate(model, val, cfg.negatives),
        best=words.LOSS,
        files=words.description(model),
    )
    return folder / "run", cfg


def test_planted_structure_is_learned(learned: tuple[Path, Words]) -> None:
    run, cfg = learned
    model, restored = words.restore(run)
    assert restored == cfg
    metrics, controls, missing = words_scores.score(model, words_scores.held_out(cfg, model, "test"), cfg)
    assert metrics["accuracy"] == metrics["accuracy/rows"] > 0.9
    assert controls["chance"]["accuracy"] == 1 / (len(model.words) - 3)
    assert controls["random_vectors"]["accuracy"] < 0.1
    assert controls["nearest_to_third"]["accuracy"] < 0.5
    assert "accuracy/unknown" not in metrics
    assert missing == {
        "same_kind": "no two words of a kind are in the vocabulary",
        "accuracy on 1 of 361 analogies": "they have words that are not in the vocabulary",
    }
    assert metrics["words_loss"] < controls["word_frequency"]["words_loss"] - 0.3
    assert controls["word_frequency"]["words_loss"] < controls["chance"]["words_loss"] == pytest.approx(6 * np.log(2))
    assert metrics["vocabulary"] == len(model.words) == ROWS * COLUMNS + 3 * (ROWS + COLUMNS)


def test_the_library_finds_it(learned: tuple[Path, Words]) -> None:
    vectors = words.load(learned[0])
    assert vectors.analogy("w00", "w02", "w40")[0][0] == "w42"
    rows = {word for word, _ in vectors.nearest("row30", k=2)}
    assert rows == {"row31", "row32"}
    with pytest.raises(
        ValueError, match=r"a word must be one of the 54 that were read: got 'row3'\. Words like it: row3"
    ):
        vectors.nearest("row3")


def test_the_loss_of_frequencies_is_the_least_without_the_middle_word() -> None:
    _, corpus = corpus_of(random_sentences(2000), batch_size=2048)
    cfg = settings(noise=1024, window=2, subsample=0.05)
    batches = PairBatches(corpus, corpus.counts, cfg)
    rule = words_scores.by_frequency(cfg, corpus.counts.tolist())
    least = words_scores.loss_of(rule, batches, cfg.negatives)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        shift = 0.3 * torch.randn(30, generator=generator)

        def moved(batch: dict[str, torch.Tensor], shift: torch.Tensor = shift) -> words.Scores:
            positive, negative = rule(batch)
            return words.Scores(positive + shift[batch["contexts"]], negative + shift[batch["noise"]])

        assert words_scores.loss_of(moved, batches, cfg.negatives) > least + 0.01


# What is asked ------------------------------------------------------------------------------------------------------


def random_vectors(n: int = 40, dim: int = 6) -> WordVectors:
    torch.manual_seed(0)
    return WordVectors([f"w{k}" for k in range(n)], torch.randn(n, dim))


def test_nearest_words_and_analogies_equal_loops() -> None:
    found = random_vectors()
    rows = functional.normalize(found.vectors.double(), dim=1)
    cosines = {word: (rows[3] @ row).item() for word, row in zip(found.words, rows, strict=True) if word != "w3"}
    expected = sorted(cosines, key=lambda word: -cosines[word])
    near = found.nearest("w3", k=5)
    assert [word for word, _ in near] == expected[:5]
    assert [cosine for _, cosine in near] == pytest.approx([cosines[word] for word in expected[:5]], abs=1e-6)
    target = rows[7] - rows[1] + rows[20]
    scores = {word: (target @ row).item() for word, row in zip(found.words, rows, strict=True)}
    ranked = sorted(scores.keys() - {"w1", "w7", "w20"}, key=lambda word: -scores[word])
    assert [word for word, _ in found.analogy("w1", "w7", "w20", k=4)] == ranked[:4]
    assert len(found.nearest("w0", k=99)) == 39 and len(found.analogy("w1", "w7", "w20", k=99)) == 37


def test_words_are_asked_for_as_they_are_written() -> None:
    found = WordVectors(["dog", "dogs", "cat"], torch.eye(3))
    assert found.nearest("Dog") == found.nearest("dog")
    for wrong, like in (("dgo", "dog, dogs"), ("dog cat", "dog"), ("zebra", "")):
        with pytest.raises(ValueError, match=f"one of the 3 that were read: got '{wrong}'") as error:
            found.analogy("dog", "cat", wrong)
        assert ("Words like it" in str(error.value)) == bool(like)
    with pytest.raises(ValueError, match=r"each word must have a vector: got 3 words and \(2, 3\)"):
        WordVectors(["dog", "dogs", "cat"], torch.eye(3)[:2])


def test_the_file_is_word2vecs_and_reads_back_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scales = torch.tensor([1e-12, 1e-4, 1.0, 3e5, 1.0])[:, None]
    found = WordVectors(["dog", "don't", "äöü", "犬", "3"], torch.randn(5, 7) * scales)
    found.save(tmp_path / "vectors.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.txt"]
    lines = (tmp_path / "vectors.txt").read_bytes().decode("utf-8").split("\n")
    assert lines[0] == "5 7" and lines[-1] == "" and len(lines) == 7
    for line, word, row in zip(lines[1:], found.words, found.vectors.numpy(), strict=False):
        fields = line.split(" ")  # one space and no more, as word2vec's other readers have it
        assert fields[0] == word and len(fields) == 8
        assert np.array(fields[1:], dtype=np.float32).tolist() == row.tolist()
    read, capitals = read_word_vectors(tmp_path / "vectors.txt", found.words, 7)
    assert capitals == 0 and read.keys() == set(found.words)
    assert all(torch.equal(read[word], row) for word, row in zip(found.words, found.vectors, strict=True))


def test_scores_of_analogies_equal_a_loop_and_equals_count_against() -> None:
    found = random_vectors()
    generator = np.random.default_rng(0)
    questions = [generator.permutation(40)[:4].tolist() for _ in range(300)]
    unit = functional.normalize(found.vectors.double(), dim=1)
    for q, (a, b, c, _) in enumerate(questions):  # every other answer is the right one
        scores = unit @ (unit[b] - unit[a] + unit[c])
        scores[[a, b, c]] = -9
        questions[q][3] = int(scores.argmax()) if q % 2 else questions[q][3]
    answered = words_scores.accuracies({"some": questions}, lambda rows: three_cos_add(found.unit, rows))
    naive = 0
    for a, b, c, d in questions:
        scores = {k: (unit[b] - unit[a] + unit[c]) @ unit[k] for k in range(40) if k not in (a, b, c)}
        naive += max(scores, key=lambda k: scores[k]) == d
    assert answered == {"accuracy": naive / 300, "accuracy/some": naive / 300}
    constant = torch.ones(40, 2) / 2**0.5
    same = words_scores.accuracies({"some": questions}, lambda rows: three_cos_add(constant, rows))
    assert same["accuracy"] == 0
    asked_back = words_scores.accuracies({"some": [[1, 2, 3, 2]]}, lambda rows: three_cos_add(found.unit, rows))
    assert asked_back["accuracy"] == 0  # a word of the question is no answer, as in the published program


def test_the_control_ignores_the_first_two() -> None:
    found = random_vectors()
    questions = torch.tensor([[1, 2, 3], [8, 9, 3]])
    scores = words_scores.nearest_to_third(found.unit, questions)
    for row, (a, b, c) in zip(scores, questions.tolist(), strict=True):
        assert torch.isinf(row[[a, b, c]]).all()
        others = [k for k in range(40) if k not in (a, b, c)]
        torch.testing.assert_close(row[others], found.unit[others] @ found.unit[3])


def test_kinds_are_told_by_the_nearest_word() -> None:
    colours, sizes = KINDS["colours"].split()[:3], KINDS["sizes"].split()[:2]
    kinds = words_scores.known_kinds(["the", *sizes, "cat", *colours])
    assert sorted(kinds) == [[1, 2], [4, 5, 6]]
    told = torch.tensor([[0.6, 0.8], *[[0, 1.0]] * 2, [0.6, 0.8], *[[1.0, 0]] * 3])
    assert words_scores.same_kind(told, kinds) == (1.0, pytest.approx((3 * 2 / 4 + 2 * 1 / 4) / 5))
    moved = torch.cat([told[:4], torch.tensor([[0.0, 1.0], [0.8, 0.6], [1.0, 0.0]])])  # a colour among the sizes
    assert words_scores.same_kind(moved, kinds)[0] == pytest.approx(
        np.mean([words_of_kind(moved, kinds, row) for those in kinds for row in those])
    )
    assert words_scores.known_kinds(["red", "small", "cat"]) == []


def words_of_kind(unit: torch.Tensor, kinds: list[list[int]], row: int) -> bool:
    others = [other for those in kinds for other in those if other != row]
    nearest = max(others, key=lambda other: (unit[row] @ unit[other]).item())
    return any({row, nearest} <= set(those) for those in kinds)


def test_our_own_questions() -> None:
    questions = own_questions()
    assert ("man", "woman", "boy", "girl") in questions["female"]
    assert ("run", "running", "walk", "walking") in questions["running"]
    assert ("dog", "dogs", "girl", "girls") in questions["plural"]
    for those in questions.values():
        assert len(set(those)) == len(those) > 0
        assert all(len(set(question)) == 4 for question in those)
        assert all(tokenize(word) == [word] for question in those for word in question)
    kinds = [word for text in KINDS.values() for word in text.split()]
    assert len(set(kinds)) == len(kinds)
    assert answerable(questions["next"], ["two", "one", "four", "three"]) == [[1, 0, 3, 2], [3, 2, 1, 0]]


def test_questions_in_googles_format(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("\ufeff: capital-common-countries\nAthens Greece Baghdad Iraq\n\n:family \nboy girl man  woman\n")
    assert read_questions(path) == {
        "capital-common-countries": [("athens", "greece", "baghdad", "iraq")],
        "family": [("boy", "girl", "man", "woman")],
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b": a\nboy girl man\n", "line 2 of .* must be four words below a line ': section': got 'boy girl man'"),
        (b": a\nboy girl man woman child\n", "line 2 of .* must be four words"),
        (b"boy girl man woman\n", "line 1 of .* must be four words below a line ': section'"),
        (b":\nboy girl man woman\n", "line 2 of .* must be four words below a line ': section'"),
        (b"", "must have questions"),
        (b": a\n: b\n", "must have questions"),
        (b": a\ncaf\xe9 b c d\n", "must be text in UTF-8"),
    ],
)
def test_wrong_questions(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "questions.txt").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_questions(tmp_path / "questions.txt")


def test_neighbours_are_shown_of_words_of_doubling_rank() -> None:
    shown = words_scores.neighbours(random_vectors())
    assert re.findall(r"^ *(\w+): ", shown, flags=re.MULTILINE) == ["w0", "w1", "w3", "w7", "w15", "w31"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"window": 0}, "window must be at least 1: got 0"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"negatives": 0}, "negatives must be at least 1"),
        ({"noise": 0}, "noise must be at least 1"),
        ({"min_count": 0}, "min_count must be at least 1"),
        ({"subsample": -0.1}, "subsample must be a share of the text"),
        ({"subsample": float("nan")}, "subsample must be a share of the text"),
        ({"batch_size": 0}, r"data\.batch_size must be a number of words"),
    ],
)
def test_settings_out_of_range(changed: dict, said: str) -> None:
    words.check(settings())
    with pytest.raises(ValueError, match=said):
        words.check(settings(**changed))


def test_settings_that_words_do_not_read_are_refused() -> None:
    for key in words.idle(settings()):
        name = key.removeprefix("data.")
        other = {bool: True, str: "x", int: 7, dict: {"coco": 1.0}}[type(getattr(DataConfig(), name))]
        cfg = settings()
        setattr(cfg.data, name, other)
        with pytest.raises(ValueError, match=rf"{key}=.* has no effect here"):
            words.check(cfg)
