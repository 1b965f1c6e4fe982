import math

import pytest
import torch
from torch import Tensor, nn

from mm.config import TextConfig
from mm.encoders import TEXT_ENCODERS, TextEncoder, TransformersTextEncoder, text_encoder
from mm.encoders.text import WORD_STD, Block, fill_embedding, position_code
from mm.encoders.word_vectors import read_word_vectors
from mm.features import pad
from mm.vocabulary import UNK

WORDS = ["a", "dog", "runs", "on", "the", "beach", "cat", "sleeps"]
SENTENCES = ["a dog runs on the beach", "cat", "the cat sleeps on the dog", "dog runs"]
SMALL = {"word_dim": 12, "hidden": 16}


def small(kind: str, **options) -> TextEncoder:
    torch.manual_seed(0)
    if kind == "mean":
        return TextEncoder(WORDS, kind, word_dim=12, **options)
    return TextEncoder(WORDS, kind, **(SMALL | options))


def batch(encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    values, lengths = pad([encoder.prepare(sentence) for sentence in SENTENCES])
    assert lengths is not None
    return values, lengths


VARIANTS = [
    ("mean", {}),
    *((kind, {"pool": pool}) for kind in ("gru", "lstm", "transformer") for pool in ("last", "mean", "max")),
    *((kind, {"bidirectional": False, "pool": "last"}) for kind in ("gru", "lstm", "transformer")),
    ("gru", {"layers": 3, "dropout": 0.4}),
    ("transformer", {"layers": 2, "hidden": 128, "dropout": 0.1, "word_dropout": 0.2}),
]


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_batch_equals_its_sentences_and_padding_changes_nothing(kind, options):
    encoder = small(kind, **options).eval()
    values, lengths = batch(encoder)
    features = encoder(values, lengths)
    assert features.grid == (6,) and features.map.shape == (4, 6, encoder.dim)
    assert features.vector.shape == (4, encoder.vector_dim) and features.mask.sum(dim=1).tolist() == lengths.tolist()
    assert not features.map[~features.mask].any()
    noise = torch.where(features.mask, values, torch.randint(1, len(encoder.vocabulary), values.shape))
    wider = nn.functional.pad(noise, (0, 3), value=5)
    for other in (encoder(noise, lengths), encoder(wider, lengths)):
        torch.testing.assert_close(other.map[:, :6], features.map, rtol=0, atol=1e-6)
        torch.testing.assert_close(other.vector, features.vector, rtol=0, atol=1e-6)
    for b, sentence in enumerate(SENTENCES):
        single = encoder(encoder.prepare(sentence)[None])
        torch.testing.assert_close(single.map[0], features.map[b, : lengths[b]], rtol=0, atol=1e-5)
        torch.testing.assert_close(single.vector[0], features.vector[b], rtol=0, atol=1e-5)
    encoded = encoder.encode(SENTENCES, batch_size=3)
    torch.testing.assert_close(encoded.vector, features.vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_last_state_is_each_directions_own(kind, bidirectional):
    encoder = small(kind, pool="last", bidirectional=bidirectional, layers=2).eval()
    values, lengths = batch(encoder)
    vectors = encoder(values, lengths).vector
    for b, length in enumerate(lengths):
        _, state = encoder.body(encoder.embedding(values[b, :length]))
        state = state[0] if kind == "lstm" else state  # (layers * directions, H)
        ends = torch.cat([state[-2], state[-1]]) if bidirectional else state[-1]
        torch.testing.assert_close(vectors[b], ends, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("pool", "expected"), [("mean", lambda m: m.mean(0)), ("max", lambda m: m.amax(0))])
def test_pools_equal_a_loop(pool, expected):
    encoder = small("gru", pool=pool).eval()
    values, lengths = batch(encoder)
    features = encoder(values, lengths)
    for b, length in enumerate(lengths):
        torch.testing.assert_close(features.vector[b], expected(features.map[b, :length]))


def test_mean_is_the_mean_of_the_embedded_words():
    encoder = small("mean")
    assert encoder.dim == encoder.vector_dim == 12
    features = encoder.encode(["Dog runs!", "dog unheard"])
    weight = encoder.embedding.weight
    torch.testing.assert_close(features.vector[0], (weight[5] + weight[6]) / 2)
    torch.testing.assert_close(features.vector[1], (weight[5] + weight[UNK]) / 2)


def test_block_equals_torchs_layer():
    torch.manual_seed(0)
    ours = Block(128, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(128, 2, 512, 0.0, "gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        for a, b in (
            (theirs.self_attn.in_proj_weight, ours.inward.weight),
            (theirs.self_attn.in_proj_bias, ours.inward.bias),
            (theirs.self_attn.out_proj.weight, ours.outward.weight),
            (theirs.self_attn.out_proj.bias, ours.outward.bias),
            (theirs.linear1.weight, ours.feed[0].weight),
            (theirs.linear1.bias, ours.feed[0].bias),
            (theirs.linear2.weight, ours.feed[2].weight),
            (theirs.linear2.bias, ours.feed[2].bias),
        ):
            a.copy_(b)
    x, mask = torch.randn(3, 7, 128), torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask[:, None, None])[mask], expected[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_only_both_directions_see_what_comes_later(kind, bidirectional):
    encoder = small(kind, bidirectional=bidirectional).eval()
    one, other = encoder.encode(["a dog runs on the beach", "a dog runs on the cat"]).map
    assert torch.equal(one[:5], other[:5]) != bidirectional
    assert not torch.equal(one[5], other[5])


def test_positions_tell_word_order():
    encoder = small("transformer", pool="mean").eval()
    one, other = encoder.encode(["dog runs", "runs dog"]).vector
    assert (one - other).abs().max() > 0.01
    code = position_code(50, 6, torch.device("cpu"))
    for position in (0, 1, 49):
        for channel in range(3):
            angle = position / 10000 ** (channel / 3)
            assert code[position, channel].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert code[position, 3 + channel].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert position_code(4, 7, torch.device("cpu")).shape == (4, 7)


def test_word_dropout_replaces_its_share_of_real_words_while_training():
    encoder = small("mean", word_dropout=0.3).train()
    with torch.no_grad():
        encoder.embedding.weight.fill_(0)
        encoder.embedding.weight[UNK] = 1
    values, lengths = torch.full((200, 50), 6), torch.full((200,), 40)
    torch.manual_seed(3)
    features = encoder(values, lengths)
    assert features.map[:, :40, 0].mean().item() == pytest.approx(0.3, abs=0.02)
    torch.manual_seed(3)
    assert torch.equal(encoder(values, lengths).map, features.map)
    assert not torch.equal(encoder(values, lengths).map, features.map)
    assert not encoder.eval()(values, lengths).map.any()
    assert not encoder(values[:, :0].new_full((1, 4), 0)).map.any()  # <pad> is zero


def test_dropout_hides_numbers_while_training():
    encoder = small("mean", dropout=0.5).train()
    with torch.no_grad():
        encoder.embedding.weight.fill_(1)
    values = torch.full((50, 20), 6)
    shares = encoder(values).map.eq(0).float().mean().item()
    assert shares == pytest.approx(0.5, abs=0.03) and encoder.eval()(values).map.eq(1).all()


@pytest.mark.parametrize("kind", TEXT_ENCODERS)
def test_frozen(kind):
    encoder = small(kind, freeze=True).train()
    values, lengths = batch(encoder)
    states, kept = encoder.trunk(values, lengths)
    assert states.shape == (4, 6, encoder.dim) and torch.equal(kept, lengths)
    whole, cached = encoder(values, lengths), encoder(states, kept, from_trunk=True)
    assert torch.equal(whole.map, cached.map) and torch.equal(whole.vector, cached.vector)
    assert not any(p.requires_grad for p in encoder.parameters()) and not whole.map.requires_grad
    free = small(kind)
    assert free.trunk(values, lengths)[0] is values and free.fingerprint("trunk") != encoder.fingerprint("trunk")


@pytest.mark.parametrize("kind", TEXT_ENCODERS)
def test_every_weight_learns(kind):
    encoder = small(kind).train()
    values, lengths = batch(encoder)
    encoder(values, lengths).vector.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert not encoder.embedding.weight.grad[0].any()  # <pad>


@pytest.mark.parametrize("kind", TEXT_ENCODERS)
def test_save_and_load_bit_for_bit(tmp_path, kind):
    encoder = small(kind, max_tokens=5).eval()
    encoder.save_pretrained(tmp_path)
    again = TextEncoder.from_pretrained(tmp_path)
    assert again.config == encoder.config and again.fingerprint() == encoder.fingerprint()
    assert again.vocabulary == encoder.vocabulary and again.max_tokens == 5
    assert torch.equal(again.encode(SENTENCES).map, encoder.encode(SENTENCES).map)


def test_prepare():
    encoder = small("gru", max_tokens=4)
    assert encoder.prepare("The DOG, unheard of, runs").tolist() == [8, 5, UNK, UNK]
    assert encoder.prepare("dog").dtype == torch.int64
    assert encoder.unknown_words("The DOG, unheard of, runs") == ["unheard", "of"]
    features = encoder.encode(["xyzzy"])  # unknown words only: <unk> like any other word
    assert torch.equal(features.vector, encoder.encode(["plugh"]).vector)
    for empty in ("", " ... "):
        with pytest.raises(ValueError, match="a sentence must have at least one word"):
            encoder.prepare(empty)
    with pytest.raises(TypeError, match="a sentence must be a string: got int"):
        encoder.prepare(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gruu"}, r"unknown text encoder 'gruu'\. Choose from: mean, gru.*Did you mean 'gru'"),
        ({"pool": "first"}, "unknown pool 'first'"),
        ({"words": []}, "words must hold at least one word"),
        ({"words": ["Dog"]}, "must be one word as tokenize gives it"),
        ({"hidden": 7}, "hidden must be even when both directions run: got 7"),
        ({"kind": "transformer", "hidden": 200}, "hidden must be a multiple of its 3 heads: got 200"),
        ({"layers": 0}, "must be at least 1"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
        ({"word_dropout": -0.1}, r"in \[0, 1\)"),
        ({"kind": "mean", "hidden": 64}, r"\['hidden'\] would have no effect with kind='mean'.*leave them at \[512\]"),
        ({"kind": "mean", "pool": "last"}, r"\['pool'\] would have no effect"),
        ({"freeze": True, "word_dropout": 0.1}, r"\['word_dropout'\] would have no effect"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**({"words": WORDS} | options))


def test_builder_passes_every_option_on():
    options = {"layers": 2, "bidirectional": False, "pool": "mean", "max_tokens": 7, "dropout": 0.1}
    encoder = text_encoder("lstm", iter(WORDS), word_dropout=0.2, **options, **SMALL)
    assert encoder.config == options | SMALL | {"words": WORDS, "kind": "lstm", "word_dropout": 0.2, "freeze": False}
    assert isinstance(encoder.body, nn.LSTM)
    default = text_encoder(words=WORDS)
    assert default.dim == TextConfig.hidden and default.kind == TextConfig.name


# Word vectors -------------------------------------------------------------------------------------------------------

GLOVE = "the 1 2 3\nDog 4 5 6\nRuns 7 8 9\ndog 10 11 12\nnew york 0 0 0\ndog house 0 0 0\nRUNS 0 0 0\nzebra 0 0 0\n"


@pytest.mark.parametrize("header", ["", "8 3\n"])
def test_word_vectors(tmp_path, header, caplog):
    path = tmp_path / "vectors.txt"
    path.write_text(header + GLOVE)
    torch.manual_seed(0)
    random = TextEncoder(WORDS, "mean", word_dim=3).embedding.weight
    torch.manual_seed(0)
    with caplog.at_level("INFO"):
        encoder = text_encoder("mean", WORDS, word_dim=3, word_vectors=str(path))
    assert "3 of 8 words found, 1 only with capitals" in caplog.text
    weight = dict(zip(encoder.vocabulary.words, encoder.embedding.weight[4:].tolist(), strict=True))
    assert weight["the"] == [1, 2, 3] and weight["dog"] == [10, 11, 12] and weight["runs"] == [7, 8, 9]
    spread = torch.tensor([1.0, 2, 3, 10, 11, 12, 7, 8, 9]).std(correction=0)
    torch.testing.assert_close(encoder.embedding.weight[9], random[9] * spread / WORD_STD)  # "beach"
    assert not encoder.embedding.weight[0].any()
    assert encoder.embedding.weight.requires_grad and "word_vectors" not in encoder.config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the 1 2\n", "must have word_dim = 3 numbers: line 1 has 2"),
        ("1 2\nthe 1 2\n", "must have word_dim = 3 numbers: line 1 has 2"),
        ("1 3\nthe 1 2\n", "must have word_dim = 3 numbers: line 2 has 2"),
        ("the 1 2 3\ncat 1 2 3\ndog 1 2\n", "line 3 of .* must have 3 finite numbers: got 2"),
        ("the 1 2 x\n", "line 1 of .* must be a word and 3 numbers: could not convert"),
        ("the 1 2 nan\n", "line 1 of .* must have 3 finite numbers"),
        ("chien 1 2 3\n", "must have words of the vocabulary: it has none of 8"),
        ("", "must have words of the vocabulary"),
    ],
)
def test_word_vectors_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        text_encoder("mean", WORDS, word_dim=3, word_vectors=str(path))


def test_word_vectors_must_be_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"word_vectors must be a GloVe or word2vec text file: .* not found"):
        fill_embedding(small("mean"), tmp_path / "none.txt")


def test_bytes_that_are_no_text_are_passed_over(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"dog 1 2\n\xff\xfe 3 4\ncat 5 6 \r\n")
    vectors, capitals = read_word_vectors(tmp_path / "v.txt", WORDS, 2)
    assert {word: vector.tolist() for word, vector in vectors.items()} == {"dog": [1, 2], "cat": [5, 6]}
    assert capitals == 0


# Any transformers encoder -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "walk"]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


@pytest.mark.parametrize("pool", ["mean", "max", "last", "class"])
def test_transformers_text_encoder(tmp_path, bert, pool):
    folder, model, tokenizer = bert
    encoder = text_encoder(f"transformers:{folder}", WORDS, pool=pool, max_tokens=8).eval()
    sentences = ["The dog walks on the beach", "Cats", "the dog walks on the beach and sleeps on the beach"]
    theirs = tokenizer(sentences, padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        states = model(**theirs).last_hidden_state
    features = encoder.encode(sentences)
    mask = theirs["attention_mask"].bool()
    assert torch.equal(features.mask, mask) and features.grid == (8,) and mask.sum(dim=1).tolist() == [8, 4, 8]
    torch.testing.assert_close(features.map[mask], states[mask], rtol=0, atol=1e-5)
    assert not features.map[~mask].any()
    naive = {"mean": lambda s: s.mean(0), "max": lambda s: s.amax(0), "last": lambda s: s[-1], "class": lambda s: s[0]}
    for b in range(3):
        torch.testing.assert_close(features.vector[b], naive[pool](states[b][mask[b]]), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            encoder.encode(sentences[b : b + 1]).vector[0], features.vector[b], atol=1e-5, rtol=0
        )
    encoder.save_pretrained(tmp_path)
    again = TransformersTextEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(sentences).map, features.map) and again.fingerprint() == encoder.fingerprint()
    assert str(folder) not in (tmp_path / "config.json").read_text()


def test_transformers_text_encoder_frozen_and_training(bert):
    folder, _, _ = bert
    encoder = text_encoder(f"transformers:{folder}", freeze=True).train()
    values, lengths = pad([encoder.prepare(sentence) for sentence in SENTENCES])
    states, kept = encoder.trunk(values, lengths)
    assert torch.equal(encoder(states, kept, from_trunk=True).vector, encoder(values, lengths).vector)
    free = text_encoder(f"transformers:{folder}").train()
    free(values, lengths).map.square().sum().backward()
    without = {name for name, p in free.named_parameters() if p.grad is None}
    assert without == {"net.pooler.dense.weight", "net.pooler.dense.bias"}
    assert not any(p.requires_grad for name, p in free.named_parameters() if name in without)
    assert free.unknown_words("The dog surfs, dogs walk") == ["surfs"]


def test_transformers_text_encoders_that_cannot_be(bert, tmp_path):
    import transformers

    folder, _, _ = bert
    name = f"transformers:{folder}"
    with pytest.raises(ValueError, match=r"\['hidden', 'word_vectors'\] would have no effect with transformers:"):
        text_encoder(name, hidden=64, word_vectors="glove.txt")
    with pytest.raises(ValueError, match=r"max_tokens must lie in 3\.\.64, the model's positions: got 65"):
        text_encoder(name, max_tokens=65)
    with pytest.raises(ValueError, match=r"unknown pool 'clas'.*Did you mean 'class'"):
        text_encoder(name, pool="clas")
    with pytest.raises(ValueError, match="a sentence must be a text that is not empty"):
        text_encoder(name).prepare(" ")
    transformers.T5Config(d_model=8, d_kv=4, num_layers=1, num_heads=2, d_ff=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be an encoder: it has a decoder too"):
        text_encoder(f"transformers:{tmp_path}")
