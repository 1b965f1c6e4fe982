"""Caption metrics against published numbers, slow obvious versions, sacrebleu and pycocoevalcap."""

import collections
import logging
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.metrics import Cider, captions
from mm.metrics.captions import diversity, evaluate

TOY = {
    1: ["a man riding a horse", "a person on a horse"],
    2: ["two dogs play in the snow", "dogs playing in snow"],
    3: ["a red bus parked on the street", "the bus is red"],
}
SAID = {1: "a man on a horse", 2: "two dogs playing in the snow", 3: "a red bus on a street"}
WORDS = ["a", "the", "dog", "dogs", "cat", "runs", "on", "in", "red", "snow"]


def soup(images, seed=0, unknown=True, empty=True):
    """Captions and references of random words, few of them, so that n-grams recur within and across sentences."""
    generator = random.Random(seed)

    def sentence(least, words):
        return " ".join(generator.choices(words, k=generator.randint(least, 12)))

    references = {f"i{n}": [sentence(1, WORDS) for _ in range(generator.randint(1, 5))] for n in range(images)}
    said = {name: sentence(1, WORDS + ["zebra", "quagga"] * unknown) for name in references}
    for n, (name, theirs) in enumerate(references.items()):
        if n % 3 == 0:  # close to a reference, so that long n-grams match
            words = theirs[0].split()
            words.insert(len(words) // 2 + 1, "a")
            said[name] = " ".join(words)
    if empty:
        said["i1"] = ""
    return said, references


def grams(words, n):
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(said, references, penalty=True):
    """BLEU-1..4 of the corpus, with COCO's two small constants."""
    matches, totals, length, closest = [0] * 4, [0] * 4, 0, 0
    for name, caption in said.items():
        words = caption.split()
        theirs = [reference.split() for reference in references[name]]
        length += len(words)
        closest += min((abs(len(their) - len(words)), len(their)) for their in theirs)[1]
        for n in range(1, 5):
            for gram, times in grams(words, n).items():
                matches[n - 1] += min(times, max(grams(their, n)[gram] for their in theirs))
                totals[n - 1] += times
    factor = math.exp(min(0, 1 - (closest + 1e-9) / (length + 1e-15))) if penalty else 1
    product, result = 1, []
    for n in range(4):
        product *= (matches[n] + 1e-15) / (totals[n] + 1e-9)
        result.append(factor * product ** (1 / (n + 1)))
    return result


def slow_rouge(caption, references):
    words = caption.split()
    best = [0.0, 0.0]
    for their in (reference.split() for reference in references):
        table = np.zeros((len(words) + 1, len(their) + 1), int)
        for i, mine in enumerate(words):
            for j, other in enumerate(their):
                table[i + 1, j + 1] = table[i, j] + 1 if mine == other else max(table[i, j + 1], table[i + 1, j])
        best = [max(best[0], table[-1, -1] / max(len(words), 1)), max(best[1], table[-1, -1] / len(their))]
    return (1 + 1.2**2) * best[0] * best[1] / (best[1] + 1.2**2 * best[0]) if best[0] else 0.0


def slow_cider_d(caption, references, everything):
    """One caption against its references; `everything` is the references of all images."""
    documents = [{gram for their in theirs for n in range(1, 5) for gram in grams(their, n)} for theirs in everything]

    def weights(words, n):
        return {
            gram: times * math.log(len(documents) / max(1, sum(gram in document for document in documents)))
            for gram, times in grams(words, n).items()
        }

    total = 0.0
    for their in references:
        for n in range(1, 5):
            mine, target = weights(caption, n), weights(their, n)
            product = sum(min(weight, target[gram]) * target[gram] for gram, weight in mine.items() if gram in target)
            norm = math.sqrt(sum(w**2 for w in mine.values())) * math.sqrt(sum(w**2 for w in target.values()))
            difference = max(len(caption) - 1, 0) - max(len(their) - 1, 0)
            total += math.exp(-(difference**2) / 72) * product / norm if norm else 0
    return 10 * total / (4 * len(references))


def test_toy_goldens():
    """Numbers of the official tool for three images."""
    scores = evaluate(SAID, TOY)
    expected = [0.8874100176, 0.7730806062, 0.5895537095, 7.0102e-05]
    assert [scores.corpus[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-9)
    assert scores.corpus["ROUGE-L"] == pytest.approx(0.8276496306, abs=1e-9)
    assert scores.each["ROUGE-L"] == pytest.approx([0.8, 0.9242424242, 0.7587064677], abs=1e-9)
    assert scores.corpus["CIDEr"] == pytest.approx(3.3489366623, abs=1e-9)
    assert scores.each["CIDEr"] == pytest.approx([3.4822916066, 4.1412997896, 2.4232185909], abs=1e-9)
    assert scores.corpus["CIDEr-D"] == scores.corpus["CIDEr"]
    assert scores.ids == [1, 2, 3]


def test_names_are_those_of_the_design():
    scores = evaluate(SAID, TOY)
    bleu = {f"BLEU-{n}" for n in (1, 2, 3, 4)}
    rest = {"ROUGE-L", "CIDEr", "CIDEr-D", "length_ratio"}
    assert set(scores.corpus) == bleu | {f"{name}_no_penalty" for name in bleu} | rest
    assert set(scores.each) == bleu | {"ROUGE-L", "CIDEr", "CIDEr-D"}
    assert all(values.shape == (3,) and values.dtype == np.float64 for values in scores.each.values())
    assert all(type(value) is float for value in scores.corpus.values())


@pytest.mark.parametrize("seed", range(4))
def test_equals_slow_versions_on_word_soups(seed):
    said, references = soup(25, seed)
    scores = evaluate(said, references)
    assert [scores.corpus[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(slow_bleu(said, references), rel=1e-10)
    plain = slow_bleu(said, references, penalty=False)
    assert [scores.corpus[f"BLEU-{n}_no_penalty"] for n in (1, 2, 3, 4)] == pytest.approx(plain, rel=1e-10)
    one_by_one = [slow_bleu({name: said[name]}, references) for name in said if said[name]]
    for n, expected in enumerate(zip(*one_by_one, strict=True), start=1):
        found = scores.each[f"BLEU-{n}"][[bool(said[name]) for name in said]]
        assert found == pytest.approx(list(expected), rel=1e-10)
    rouge = [slow_rouge(said[name], references[name]) for name in said]
    assert scores.each["ROUGE-L"] == pytest.approx(rouge, abs=1e-12)
    split = {name: [their.split() for their in references[name]] for name in said}
    cider = [slow_cider_d(said[name].split(), split[name], list(split.values())) for name in said]
    assert scores.each["CIDEr-D"] == pytest.approx(cider, abs=1e-10)
    for name in ("ROUGE-L", "CIDEr", "CIDEr-D"):
        assert scores.corpus[name] == pytest.approx(scores.each[name].mean(), rel=1e-12)


def test_short_captions_are_longer_than_nothing():
    """Captions and references of one to three words have no 4-gram: nothing is divided by zero."""
    said = {0: "dog", 1: "a dog", 2: "the red dog"}
    references = {0: ["a dog"], 1: ["dog", "the red dog"], 2: ["the red dog"]}
    scores = evaluate(said, references)
    assert [scores.corpus[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(slow_bleu(said, references), rel=1e-9)
    assert all(np.isfinite(values).all() for values in scores.each.values())


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocoevalcap_given_the_same_words(seed):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    said, references = soup(60, seed)
    scores, result = evaluate(said, references), {name: [caption] for name, caption in said.items()}
    corpus, each = bleu.compute_score(references, result, verbose=0)
    assert [scores.corpus[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(corpus, abs=1e-9)
    for n in (1, 2, 3, 4):
        assert scores.each[f"BLEU-{n}"] == pytest.approx(each[n - 1], abs=1e-9)
    for name, scorer in {"ROUGE-L": rouge, "CIDEr": cider}.items():
        corpus, each = scorer.compute_score(references, result)
        assert scores.corpus[name] == pytest.approx(corpus, abs=1e-9)
        assert scores.each[name] == pytest.approx(each, abs=1e-9)


def test_bleu_equals_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    said, references = soup(80, empty=False)
    references = {name: [theirs[n % len(theirs)] for n in range(5)] for name, theirs in references.items()}
    scores = evaluate(said, references)
    columns = [[references[name][n] for name in said] for n in range(5)]
    for n in (1, 2, 3, 4):
        scorer = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=n, force=True)
        found = scorer.corpus_score(list(said.values()), columns)
        assert scores.corpus[f"BLEU-{n}"] == pytest.approx(found.score / 100, abs=1e-9)
        assert scores.corpus["length_ratio"] == pytest.approx(found.sys_len / found.ref_len, rel=1e-12)


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=4)), min_size=2, max_size=8)


@settings(max_examples=60, deadline=None)
@given(corpora, st.randoms(use_true_random=False))
def test_order_of_images_and_of_references_changes_nothing(corpus, generator):
    said = {n: caption for n, (caption, _) in enumerate(corpus)}
    references = {n: theirs for n, (_, theirs) in enumerate(corpus)}
    first = evaluate(said, references)
    names = generator.sample(list(said), len(said))
    again = evaluate(
        {name: said[name] for name in names},
        {name: generator.sample(references[name], len(references[name])) for name in reversed(names)},
    )
    assert again.ids == names
    assert again.corpus == pytest.approx(first.corpus, rel=1e-9, abs=1e-12)
    for name, values in first.each.items():
        assert again.each[name] == pytest.approx(values[names], rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(corpora)
def test_scores_lie_in_their_range_and_perfect_captions_score_most(corpus):
    references = {n: theirs for n, (_, theirs) in enumerate(corpus)}
    scores = evaluate({n: caption for n, (caption, _) in enumerate(corpus)}, references)
    for name, value in scores.corpus.items():
        assert 0 <= value <= {"CIDEr": 10 + 1e-9, "CIDEr-D": 10 + 1e-9, "length_ratio": 7}.get(name, 1 + 1e-9)
    perfect = evaluate({n: theirs[0] for n, theirs in references.items()}, references)
    assert perfect.corpus["BLEU-1"] == pytest.approx(1, abs=1e-6)
    assert perfect.each["ROUGE-L"] == pytest.approx(1, abs=1e-9)
    single = {n: theirs[:1] for n, theirs in references.items()}
    most = evaluate({n: theirs[0] for n, theirs in single.items()}, single)
    assert most.corpus["length_ratio"] == 1
    others = evaluate({n: caption for n, (caption, _) in enumerate(corpus)}, single)
    assert (most.each["CIDEr"] >= others.each["CIDEr"] - 1e-9).all()


def test_case_and_punctuation_do_not_count_but_apostrophes_split():
    plain = evaluate({1: "a dog 's bed", 2: "two cats"}, {1: ["a dog 's bed"], 2: ["two cats"]})
    dressed = evaluate({1: "A dog's bed!", 2: "Two cats ."}, {1: ['"A dog\'s bed,"'], 2: ["Two cats..."]})
    assert dressed.corpus == plain.corpus


def test_brevity_is_punished_only_with_penalty_and_length_only_by_precision():
    references = {1: ["a dog runs on the snow"], 2: ["two cats sleep on a bed"]}
    short = evaluate({1: "a dog runs", 2: "two cats sleep"}, references).corpus
    assert short["BLEU-1_no_penalty"] == pytest.approx(1, abs=1e-6)
    assert short["BLEU-1"] == pytest.approx(math.exp(1 - 2), abs=1e-6)
    assert short["length_ratio"] == 0.5
    long = evaluate({1: "a dog runs on the snow today", 2: "two cats sleep on a bed today"}, references).corpus
    assert long["BLEU-1"] == long["BLEU-1_no_penalty"] < 1


def test_empty_captions_score_nothing_and_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        scores = evaluate({1: "", 2: "two cats", 3: " ."}, {1: ["a dog"], 2: ["two cats"], 3: ["snow"]})
    assert "2 of 3 captions have no word" in caplog.text
    for name, values in scores.each.items():
        assert values[0] == pytest.approx(0, abs=1e-9) and values[2] == pytest.approx(0, abs=1e-9), name
        assert values[1] > 0
    assert evaluate({1: "", 2: ""}, {1: ["a"], 2: ["b"]}).corpus["CIDEr"] == 0


def test_cider_of_one_image_is_zero_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert evaluate({1: "a dog"}, {1: ["a dog"]}).corpus["CIDEr"] == 0
    assert "CIDEr of one image is 0 by definition" in caplog.text


@pytest.mark.parametrize(
    ("said", "references", "error", "message"),
    [
        ({}, {}, ValueError, "got none"),
        ({1: "a", 2: "b", 3: "c"}, {1: ["a"]}, ValueError, "2 of 3 images have none, the first is 2"),
        ({"a.jpg": "a"}, {"a.jpeg": ["a"]}, ValueError, "the first is 'a.jpg'. Did you mean 'a.jpeg'"),
        ({"7": "a"}, {7: ["a"]}, ValueError, "of one type"),
        ({1: "a"}, {1: ["a"], 5: ["b"]}, ValueError, "1 of 2 images have references and no caption, the first is 5"),
        ({"cat": "a"}, {"cat": ["a"], "cats": ["b"]}, ValueError, "Did you mean 'cat'"),
        ({1: "a", 4: "a"}, {1: ["a"], 4: []}, ValueError, "4 has none"),
        ({1: "a"}, {1: ["a", " ."]}, ValueError, "image 1 has ' .'"),
        ({1: ["a"]}, {1: ["a"]}, TypeError, "one string"),
        ({1: "a"}, {1: "a dog"}, TypeError, r"Write \[reference\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(said, references, error, message):
    with pytest.raises(error, match=message):
        evaluate(said, references)


@pytest.fixture(scope="module")
def rewards():
    said, references = soup(40, seed=9)
    return said, [[their.split() for their in theirs] for theirs in references.values()], references


def test_the_reward_is_the_metric_when_document_frequencies_are_the_same(rewards):
    said, tokens, references = rewards
    score = Cider(tokens).score([caption.split() for caption in said.values()], range(40))
    np.testing.assert_allclose(score, evaluate(said, references).each["CIDEr-D"], rtol=1e-12)


def test_the_reward_of_some_captions_uses_document_frequencies_of_all_images(rewards):
    _, tokens, _ = rewards
    cider, images = Cider(tokens), [7, 3, 3, 30]
    texts = ["a dog runs on zebra zebra", "", "the the the the the", "quagga in snow"]
    expected = [slow_cider_d(t.split(), tokens[image], tokens) for t, image in zip(texts, images, strict=True)]
    score = cider.score([text.split() for text in texts], np.array(images))
    np.testing.assert_allclose(score, expected, atol=1e-12)
    np.testing.assert_allclose(cider.score([texts[3].split()], [30]), expected[3:], atol=1e-12)
    assert cider.score([], []).shape == (0,)


def test_words_not_seen_before_cost_and_leave_no_trace(rewards):
    _, tokens, _ = rewards
    cider, right = Cider(tokens), tokens[5][0]
    alone = cider.score([right], [5])[0]
    assert cider.score([[*right[:-1], "zebra"]], [5])[0] < alone
    assert cider.score([right, ["zebra", "zebra"]], [5, 6]).tolist() == [alone, 0]
    assert cider.score([right], [5])[0] == alone


def test_words_may_be_numbers(rewards):
    _, tokens, _ = rewards
    number = {word: n + 1000 for n, word in enumerate(WORDS)}
    as_numbers = [[[number[word] for word in their] for their in theirs] for theirs in tokens]
    texts, images = [theirs[0] for theirs in tokens], np.roll(np.arange(40), 1)
    as_words = Cider(tokens).score(texts, images)
    np.testing.assert_array_equal(Cider(as_numbers).score([t[0] for t in as_numbers], images), as_words)


def test_repetition_does_not_pay(rewards):
    """What clipping and the penalty on length are for."""
    _, tokens, _ = rewards
    cider, right = Cider(tokens), tokens[4][0]
    once, thrice = cider.score([right, right * 3], [4, 4])
    assert thrice < once / 2


@pytest.mark.parametrize(
    ("said", "images", "message"),
    [
        ([["a"]], [0, 1], "one image"),
        ([["a"]], [40], r"0..39: got 40..40"),
        ([["a"], ["b"]], [0, -1], "got -1..0"),
    ],
)
def test_rewards_of_unknown_images_are_refused(rewards, said, images, message):
    with pytest.raises(ValueError, match=message):
        Cider(rewards[1]).score(said, images)


@pytest.mark.parametrize(("references", "message"), [([], "no image"), ([[["a"]], []], "number 1 has none")])
def test_cider_needs_references(references, message):
    with pytest.raises(ValueError, match=message):
        Cider(references)


def test_a_reward_takes_milliseconds():
    generator = random.Random(0)
    words = [f"w{n}" for n in range(3000)]
    tokens = [[generator.choices(words, k=11) for _ in range(5)] for _ in range(2000)]
    cider = Cider(tokens)
    texts, images = [tokens[n][1] for n in range(320)], list(range(320))
    cider.score(texts, images)
    start = time.process_time()
    for _ in range(5):
        cider.score(texts, images)
    assert (time.process_time() - start) / 5 < 0.05  # a tenth of it here


def test_diversity_counts_words_bigrams_and_copies():
    said = ["A dog runs.", "a dog sleeps", "a dog sleeps !"]
    found = diversity(said, train=["a cat", "A dog sleeps."])
    assert found == pytest.approx(
        {"distinct-1": 4 / 9, "distinct-2": 3 / 6, "vocabulary": 4, "words": 3, "copied": 2 / 3}, abs=1e-12
    )
    assert "copied" not in diversity(said)
    assert diversity(["dog", ""]) == {"distinct-1": 1, "distinct-2": 0, "vocabulary": 1, "words": 0.5}
    same = diversity(["a red dog"] * 10)
    assert same["distinct-1"] == pytest.approx(0.1) and same["distinct-2"] == pytest.approx(0.1)


@pytest.mark.parametrize("said", [[], "a dog"])
def test_diversity_needs_captions(said):
    with pytest.raises(ValueError, match="list of one or more"):
        diversity(said)


def test_the_module_is_reached_by_its_name():
    assert captions.evaluate is evaluate
    assert captions.Cider is Cider
