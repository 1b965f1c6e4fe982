"""The tokeniser against words checked by hand with the Java tool, and against the tool itself where it is installed."""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mm.metrics import ptb_tokenize

# What Java's tokens are after COCO's list: every row was taken from the tool.
GOLDENS = {
    "A dog's T-shirt isn't clean .": "a dog 's t-shirt is n't clean",
    "the dogs' bowl": "the dogs bowl",
    "James's dog, Grey's cat": "james 's dog grey 's cat",
    "I'm he'll they've we're she'd can't won't": "i 'm he 'll they 've we 're she 'd ca n't wo n't",
    "I'd've couldn't've": "i 'd 've could n't 've",
    "DON'T": "do n't",
    "cannot gonna wanna gotta gimme lemme": "can not gon na wan na got ta gim me lem me",
    "cannot-do wannabe": "cannot-do wannabe",
    "'twas 'tis 'em 'n' '80s '90s o'clock ma'am y'all": "'t was 't is 'em 'n' '80s '90s o'clock ma'am y' all",
    "rock'n'roll rock n' roll": "rock 'n' roll rock n roll",
    "O'Brien d'Avignon L'Oreal goin' ol'": "o'brien d'avignon l'oreal goin ol'",
    "6'2\" 5'11": "6 2 5 '11",
    "mother-in-law's well-known x-ray.": "mother-in-law 's well-known x-ray",
    "a - b -- c a--b --- ----- -x x-": "a b c a b ----- x x",
    "brown,short-haired dog,cat": "brown,short-haired dog cat",
    "1,000 people, 3.14 .5 12:30pm 1/2 50/50 3-4 -5 10% 4x4 3rd 1950s": (
        "1,000 people 3.14 .5 12:30 pm 1/2 50/50 3-4 -5 10 % 4x4 3rd 1950s"
    ),
    "$5 #1 US$5 £5 5¢ €5": "$ 5 # 1 us$ 5 # 5 5 cents $ 5",
    "#1 #tag @home @ home": "# 1 #tag @home @ home",
    "and/or his/her w/o w/ /": "and/or his/her w/o w / /",
    "\"hello,\" 'hello' `hello'": "hello hello hello",
    "\u201chello\u201d \u2018hello\u2019 don\u2019t dog\u2019s": "hello hello do n't dog 's",
    "wait... wait … wait . . . hmm.... ..": "wait wait wait hmm",
    "a & b AT&T b&w black&white &amp;": "a & b at&t b & w black & white &",
    "(a dog) [a cat] {a man}": "-lrb- a dog -rrb- -lsb- a cat -rsb- -lcb- a man -rcb-",
    "hello! hello!! what?! hello?world end.Next": "hello hello !! what ?! hello?world end.next",
    "Mr. Smith, St. Bernard; jr. vs. etc.": "mr. smith st. bernard jr. vs. etc.",
    "the U.S. Army in washington d.c. at 10 a.m.": "the u.s. army in washington d.c. at 10 a.m.",
    "no. 5 no. yes. fig. 3 fig.": "no. 5 no yes fig. 3 fig",
    "Miss. miss. Mass. mass. lb. ft.": "miss. miss mass. mass lb ft.",
    "plan B. The dog": "plan b the dog",
    "plan B. a dog": "plan b. a dog",
    "hi :) ok": "hi :-rrb- ok",
    "a man. a dog.": "a man a dog",
    "under_score a_1 __ * ** a=b 2+2": "under_score a_1 __ * ** a = b 2 +2",
    "See http://example.com/a?b=c.": "see http://example.com/a?b=c",
    "example.com, me@example.com. a.b.c": "example.com me@example.com a.b.c",
    "café naïve ñandú ½ cup 日本語 über": "café naïve ñandú 1/2 cup 日本語 über",
    "a\u2013b a \u2014 b": "a b a b",
    "a  double\ttab\nline\u00a0space": "a double tab line space",
    "": "",
    " . , ! ? ; : - ' \" ": "",
}


@pytest.mark.parametrize(("text", "words"), GOLDENS.items())
def test_words_are_those_of_the_java_tool(text, words):
    assert ptb_tokenize(text) == words.split()


@pytest.mark.parametrize("ending", ["", " ", ".", " .", "  . ", "!", " ,", "...", '"'])
def test_the_end_of_a_sentence_changes_no_word(ending):
    assert ptb_tokenize(f"Two dogs , one cat{ending}") == ["two", "dogs", "one", "cat"]


@pytest.mark.parametrize("text", ["A dog's T-shirt isn't clean.", "I'd've thought (so)", "Mr. Smith's 1,000 dogs!!"])
def test_words_joined_by_blanks_are_the_same_words(text):
    """So the output of a decoder that was trained on words may be scored as it is."""
    assert ptb_tokenize(" ".join(ptb_tokenize(text))) == ptb_tokenize(text)


def test_many_captions_take_little_time():
    texts = ["Two dogs , one with a collar , run through the snow .", "A man's red T-shirt isn't clean."] * 5000
    start = time.process_time()
    for text in texts:
        ptb_tokenize(text)
    assert time.process_time() - start < 2  # a fifth of it here


@pytest.mark.parametrize(
    "text", ["a" * 50_000, "a-" * 20_000, "a." * 20_000, "'" * 20_000, "<a " * 5_000, "1,." * 9_000]
)
def test_hostile_text_takes_little_time(text):
    start = time.process_time()
    ptb_tokenize(text)
    assert time.process_time() - start < 2


def java_words(texts, folder):
    """COCO's evaluation: the tokens of Stanford's tool, less those of the punctuation list."""
    package = Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0])
    dropped = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:-;", "--", "..."}
    source = folder / "captions.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(package / "tokenizer" / "stanford-corenlp-3.4.1.jar")]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(source)]
    lines = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout.split("\n")
    return [[word for word in line.split() if word not in dropped] for line in lines[: len(texts)]]


@pytest.fixture
def java(tmp_path):
    pytest.importorskip("pycocoevalcap", reason="the Java tool comes with pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    return lambda texts: java_words(texts, tmp_path)


def different(texts, java):
    return [
        (text, ours, theirs)
        for text, theirs in zip(texts, java(texts), strict=True)
        if (ours := ptb_tokenize(text)) != theirs
    ]


def test_goldens_are_what_java_says(java):
    texts = [text for text in GOLDENS if text and "\n" not in text]
    assert different(texts, java) == []


def test_all_captions_of_flickr8k_agree_with_java(java):
    file = Path(os.environ.get("MM_DATA", "data")) / "flickr8k" / "dataset_flickr8k.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    images = json.loads(file.read_text(encoding="utf-8"))["images"]
    texts = [sentence["raw"] for image in images for sentence in image["sentences"]]
    assert len(texts) >= 40_000
    assert different(texts, java) == []


WORDS = ["A", "dog", "man's", "T-shirt", "runs", "The", "two", "st.", "black-and-white", "girl", "in", "on"]
PIECES = [
    "'s",
    "n't",
    "--",
    "...",
    "#1",
    "$5",
    "5",
    "10",
    "1,000",
    "3.5",
    "U.S.",
    "'em",
    "!!",
    "5th",
    "'80s",
    "o'clock",
]


def test_captions_with_odd_pieces_agree_with_java(java):
    """Pieces of real captions beside words: no list of goldens has all pairs."""
    generator = random.Random(0)
    texts = []
    for _ in range(2000):
        text = generator.choices(WORDS, k=6)
        text.insert(generator.randrange(7), generator.choice([*PIECES, *"'.,;:!?()-/&%\"", "T.V.", "e.g."]))
        texts.append(" ".join([*text, "here"]) + generator.choice(["", ".", " ."]))
    assert different(texts, java) == []
