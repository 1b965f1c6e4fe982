import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm.vocabulary import END, PAD, START, UNK, Vocabulary, tokenize

SENTENCES = ["A dog runs .", "the Dog sleeps", "a cat runs", "A bird isn't a cat"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two dogs, don't run!", ["two", "dogs", "don't", "run"]),
        ("the dogs' 'quoted' rock'n'roll", ["the", "dogs", "quoted", "rock'n'roll"]),
        ("it\u2019s it\u00b4s it`s", ["it's"] * 3),
        ("a--b_c 3.5 T-shirt 2nd", ["a", "b", "c", "3", "5", "t", "shirt", "2nd"]),
        ("\uff21\uff22 \ufb01ne", ["ab", "fine"]),  # full width, ligature
        ("Caf\u00e9 cafe\u0301", ["caf\u00e9"] * 2),
        ("\u0421\u043e\u0431\u0430\u043a\u0430 \u0431\u0435\u0436\u0438\u0442", ["собака", "бежит"]),
        ("हिन्दी में कुत्ता।", ["हिन्दी", "में", "कुत्ता"]),
        ("كَلْب يَجْري،", ["كَلْب", "يَجْري"]),
        ("狗在跑。", ["狗", "在", "跑"]),
        ("개가 달린다", ["개가", "달린다"]),
        ("หมา", ["ห", "ม", "า"]),
        ("dog狗dog", ["dog", "狗", "dog"]),
        ("\U0001f436 ... \u0301 \u0001", []),
        ("a\u0001b", ["a", "b"]),
        ("", []),
    ],
)
def test_words_of_any_script(text, words):
    assert tokenize(text) == words


@given(st.text())
def test_tokenizing_again_changes_nothing(text):
    words = tokenize(text)
    assert tokenize(" ".join(words)) == words
    for word in words:
        assert tokenize(word) == [word]
        assert not any(c.isspace() or c == "_" for c in word)
        assert word[0].isalnum() and (word[-1].isalnum() or unicodedata.category(word[-1])[0] == "M")


def test_build_orders_by_count_then_letters():
    vocabulary = Vocabulary.build(SENTENCES)
    assert vocabulary.words == ["a", "cat", "dog", "runs", "bird", "isn't", "sleeps", "the"]
    assert Vocabulary.build(reversed(SENTENCES)) == vocabulary
    assert Vocabulary.build(SENTENCES, min_count=2).words == ["a", "cat", "dog", "runs"]
    assert Vocabulary.build(SENTENCES, min_count=4) == Vocabulary(["a"])


def test_nothing_left_to_build_from():
    with pytest.raises(ValueError, match=r"must occur 9 times: .* have 8 different words, the most frequent 4"):
        Vocabulary.build(SENTENCES, min_count=9)
    with pytest.raises(ValueError, match="have 0 different words"):
        Vocabulary.build(["...", ""])
    with pytest.raises(TypeError, match=r"got one string\. Write \[sentence\]"):
        Vocabulary.build("a dog")


def test_encode_and_decode():
    vocabulary = Vocabulary.build(SENTENCES)
    assert (PAD, START, END, UNK) == (0, 1, 2, 3) and len(vocabulary) == 4 + 8
    numbers = vocabulary.encode("The DOG eats a zebra")
    assert numbers == [11, 6, UNK, 4, UNK]
    assert vocabulary.decode(numbers) == "the dog <unk> a <unk>"
    assert vocabulary.decode([START, 11, 6, PAD, END, 4]) == "the dog"
    assert vocabulary.decode([]) == ""
    assert "dog" in vocabulary and "<pad>" in vocabulary and "Dog" not in vocabulary and 3 not in vocabulary
    for sentence in SENTENCES:
        assert vocabulary.decode(vocabulary.encode(sentence)) == " ".join(tokenize(sentence))


def test_unknown_words_are_listed_with_the_nearest():
    vocabulary = Vocabulary.build(SENTENCES)
    assert vocabulary.unknown("a zebra, a Zebra and slepes") == ["zebra", "and", "slepes"]
    assert vocabulary.encode("zebra okapi") == [UNK, UNK]
    assert vocabulary.nearest("Slepes") == ["sleeps"]
    assert vocabulary.nearest("cta")[0] == "cat"
    assert vocabulary.nearest("xylophone") == []


@pytest.mark.parametrize("text", ["", "  \n", "... !", "\U0001f436"])
def test_a_sentence_without_words(text):
    with pytest.raises(ValueError, match="must have at least one word: got"):
        Vocabulary.build(SENTENCES).encode(text)


@pytest.mark.parametrize("number", [-1, 12, 999])
def test_a_number_of_no_word(number):
    with pytest.raises(ValueError, match=rf"must lie in 0\.\.11: got {number}"):
        Vocabulary.build(SENTENCES).decode([4, number])


def test_words_that_cannot_be():
    with pytest.raises(ValueError, match=r"must differ: \['a'\] occur more than once"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"must differ: \['<unk>'\]"):
        Vocabulary(["<unk>"])
    for word in ("Dog", "two words", "", "x_y", 3):
        with pytest.raises(ValueError, match="must be one word as tokenize gives it"):
            Vocabulary([word])


def test_save_and_load(tmp_path):
    vocabulary = Vocabulary.build([*SENTENCES, "café 狗"])
    vocabulary.save(tmp_path / "deep" / "words.json")
    again = Vocabulary.load(tmp_path / "deep" / "words.json")
    assert again == vocabulary and again.encode("a café 狗 zebra") == vocabulary.encode("a café 狗 zebra")
    assert again != Vocabulary(["a"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["words.json"]


def test_a_save_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "words.json"
    Vocabulary(["a"]).save(path)

    def full_disk(descriptor: int):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Vocabulary(["b"]).save(path)
    monkeypatch.undo()
    assert Vocabulary.load(path).words == ["a"] and os.listdir(tmp_path) == ["words.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"words": ["a", ', "must be a vocabulary in JSON"),
        (b"\xff\xfe\x00", "must be a vocabulary in JSON"),
        (b'{"model": 1}', "must hold"),
        (b'["a"]', "must hold"),
        (b'{"words": "dog"}', "must hold"),
        (b'{"words": ["a", "a"]}', "occur more than once"),
        (b'{"words": ["Dog"]}', "as tokenize gives it"),
        (b'{"words": [["dog"]]}', "unhashable"),
    ],
)
def test_files_that_hold_no_vocabulary(tmp_path, content, message):
    (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"words\.json.*{message}"):
        Vocabulary.load(tmp_path / "words.json")


def test_the_file_is_plain_json(tmp_path):
    Vocabulary(["a", "b"]).save(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text()) == {"words": ["a", "b"]}
