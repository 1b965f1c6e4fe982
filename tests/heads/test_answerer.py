"""Answers over features: every attention with every fusion against naive loops, padding, batches and missing inputs."""

import itertools

import pytest
import torch
from torch import Tensor

from mm.features import WAVES, Features
from mm.heads.answerer import Answerer, AnswererConfig
from mm.heads.fusions import FUSIONS, MFB_FACTORS, MUTAN_RANK, build_fusion, even
from mm.heads.looking import LEAN, Asked, Attend, Looked, Whereabouts, attention_and_layers, build_attention

ATTENTIONS = ("none", "san:1", "san:2", "topdown", "topdown:2", "mcan:1", "mcan:2")
EVERY = list(itertools.product(ATTENTIONS, FUSIONS))
DIM = 32


def features(count: int, places: int, dim: int, real: list[int] | None = None, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    map = torch.randn(count, places, dim, generator=generator)
    mask = torch.arange(places) < torch.tensor(real or [places] * count)[:, None]
    return Features(map, mask, torch.randn(count, dim + 1, generator=generator), (places,))


def answerer(attention: str = "topdown", fusion: str = "mul", contents=("image",), **settings) -> Answerer:
    torch.manual_seed(1)
    config = AnswererConfig(dim=DIM, attention=attention, fusion=fusion, hidden=24, dropout=0.3, **settings)
    head = Answerer({name: (6, 7) for name in contents}, (5, 6), ["yes", "no", "red", "2"], config)
    return head.eval()


def rows(features: Features, chosen: list[int]) -> Features:
    return Features(features.map[chosen], features.mask[chosen], features.vector[chosen], features.grid)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_padding_changes_nothing(attention: str, fusion: str, positions: bool) -> None:
    head = answerer(attention, fusion, positions=positions)
    question, image = features(3, 6, 5, [6, 2, 4]), features(3, 5, 6, [5, 3, 1], seed=1)
    whole = head(question, {"image": image})
    noise = Features(
        image.map + 9 * torch.randn_like(image.map) * ~image.mask[..., None], image.mask, image.vector, image.grid
    )
    words = question._replace(map=question.map + 9 * torch.randn_like(question.map) * ~question.mask[..., None])
    torch.testing.assert_close(head(words, {"image": noise}).logits, whole.logits)
    for k, (length, places) in enumerate(zip([6, 2, 4], [5, 3, 1], strict=True)):
        one = Features(
            question.map[k : k + 1, :length], question.mask[k : k + 1, :length], question.vector[k : k + 1], (length,)
        )
        seen = Features(
            image.map[k : k + 1, :places], image.mask[k : k + 1, :places], image.vector[k : k + 1], (places,)
        )
        alone = head(one, {"image": seen})
        torch.testing.assert_close(alone.logits[0], whole.logits[k])
        if whole.attention is not None and alone.attention is not None:
            torch.testing.assert_close(alone.attention[0], whole.attention[k, :, :places])


@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_questions_that_share_an_input_are_answered_as_if_each_had_its_own(attention: str, fusion: str) -> None:
    head = answerer(attention, fusion)
    question, image = features(4, 6, 5), features(2, 5, 6, [5, 3], seed=1)
    about = torch.tensor([1, 0, 0, 1])
    shared = head(question, {"image": image}, {"image": about})
    own = head(question, {"image": rows(image, about.tolist())})
    torch.testing.assert_close(shared.logits, own.logits)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        head(rows(question, order), {"image": image}, {"image": about[order]}).logits, shared.logits[order]
    )


@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_a_modality_that_a_question_is_not_about_is_as_if_it_were_not_there(attention: str, fusion: str) -> None:
    head = answerer(attention, fusion, ("image", "audio"))
    question, image, sound = features(2, 6, 5), features(2, 4, 6, seed=1), features(1, 3, 6, seed=2)
    about = {"image": torch.tensor([0, 1]), "audio": torch.tensor([-1, 0])}
    both = head(question, {"image": image, "audio": sound}, about)
    alone = head(rows(question, [0]), {"image": rows(image, [0])})
    torch.testing.assert_close(both.logits[0], alone.logits[0])
    heard = head(rows(question, [1]), {"image": rows(image, [1]), "audio": sound})
    torch.testing.assert_close(both.logits[1], heard.logits[0])
    assert not torch.allclose(head(rows(question, [1]), {"image": rows(image, [1])}).logits[0], both.logits[1])
    nothing = head(question, {"image": image}, {"image": torch.tensor([-1, -1])})
    assert nothing.logits.isfinite().all()


@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_attention_sums_to_one_and_is_zero_at_padding(attention: str, fusion: str) -> None:
    head = answerer(attention, fusion, ("image", "audio"))
    image, sound = features(3, 5, 6, [5, 3, 1], seed=1), features(3, 4, 6, [4, 1, 2], seed=2)
    scored = head(features(3, 6, 5), {"image": image, "audio": sound})
    if attention == "none" and fusion != "ban":
        assert scored.attention is None
        return
    assert scored.places == {"image": 5, "audio": 4}
    alpha = scored.attention
    torch.testing.assert_close(alpha.sum(-1), torch.ones(alpha.shape[:2]))
    mask = torch.cat([image.mask, sound.mask], dim=1)
    assert (alpha.transpose(1, 2)[~mask] == 0).all()
    assert (alpha.transpose(1, 2)[mask] > 0).all()
    kind = attention.split(":")[0]
    own = 2 * (fusion == "ban" and kind in ("none", "mcan"))  # glimpses of a fusion that looks itself
    number = int(attention[-1]) if attention[-1].isdigit() else 1
    looks = {"none": 0, "mcan": not own}.get(kind, number)
    assert alpha.shape[1] == looks + own


@pytest.mark.parametrize(
    ("attention", "fusion", "names"),
    [
        ("mcan:2", "mul", {"words_to_words": 2, "places_to_places": 1, "places_to_words": 2, "words": 1}),
        ("mcan:1", "ban", {"words_to_words": 1, "places_to_words": 1, "words_and_places": 2}),
        ("topdown", "ban", {"words_and_places": 2}),
        ("none", "mcb", {}),
    ],
)
def test_every_other_attention_can_be_had_too(attention: str, fusion: str, names: dict[str, int]) -> None:
    head = answerer(attention, fusion)
    question, image = features(3, 6, 5, [6, 2, 4]), features(3, 5, 6, [5, 3, 1], seed=1)
    inner: dict[str, list[Tensor]] = {}
    asked = head(question, {"image": image}, inner=inner)
    torch.testing.assert_close(asked.logits, head(question, {"image": image}).logits)
    assert {name: len(weights) for name, weights in inner.items()} == names
    words = torch.cat([question.mask, torch.ones(3, 1, dtype=torch.bool)], dim=1)  # the whole question behind them
    for name, weights in inner.items():
        for one in weights:
            total = one.sum(dim=(1, 2)) if name == "words_and_places" else one.sum(dim=-1)
            torch.testing.assert_close(total, torch.ones_like(total))
            at = image.mask if name.endswith("places") else words
            if not (name == "words_and_places" and attention == "topdown"):  # which sees one place
                assert (one.movedim(-1, 1)[~at] == 0).all(), name


def test_what_guided_attention_says_is_what_it_does() -> None:
    torch.manual_seed(0)
    attend = Attend(DIM, 0.0, elsewhere=True).eval()
    x, at, mask = torch.randn(2, 3, DIM), torch.randn(2, 4, DIM), torch.tensor([[True] * 4, [True, False, True, False]])
    weights: list[Tensor] = []
    found = attend(x, at, mask, weights)
    value = attend.both(attend.norm_at(at))[..., DIM:]
    torch.testing.assert_close(found, x + attend.out(weights[0] @ value))  # with one head


@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_every_weight_learns(attention: str, fusion: str) -> None:
    head = answerer(attention, fusion).train()
    scored = head(features(8, 6, 5), {"image": features(8, 5, 6, seed=1)})
    (scored.logits * torch.randn_like(scored.logits)).sum().backward()
    idle = [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0]
    assert not idle


def test_a_question_only_model_needs_nothing_and_sees_nothing() -> None:
    head = answerer(contents=())
    question = features(3, 6, 5)
    torch.testing.assert_close(head(question, {}).logits, head(question, {"image": features(3, 5, 6)}).logits)
    assert head(question, {}).attention is None


def test_where_a_place_lies_matters_with_positions_alone() -> None:
    question, image = features(2, 6, 5), features(2, 6, 6, seed=1)._replace(grid=(2, 3))
    moved = image._replace(map=image.map.roll(1, dims=1))
    for positions in (True, False):
        head = answerer("topdown", "mul", positions=positions)
        same = torch.allclose(
            head(question, {"image": image}).logits, head(question, {"image": moved}).logits, atol=1e-5
        )
        assert same != positions


# Against the papers, step by step ---------------------------------------------------------------------------------


def looked(count: int = 3, places: int = 4, words: int = 5) -> Looked:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask, word_mask = (
        torch.rand(count, places, generator=generator) < 0.8,
        torch.rand(count, words, generator=generator) < 0.8,
    )
    mask[:, 0], word_mask[:, 0] = True, True
    return Looked(
        random(count, DIM),
        Asked(random(count, DIM), random(count, words, DIM), word_mask),
        random(count, places, DIM),
        mask,
        random(count, 0, places),
    )


def test_the_count_sketch_is_that_of_the_outer_product() -> None:
    torch.manual_seed(0)
    fusion = build_fusion("mcb", 8, 0.0)
    seen, question = torch.randn(3, 8), torch.randn(3, 8)
    expected = torch.zeros(3, fusion.width)
    for i, j in itertools.product(range(8), range(8)):
        place = (fusion.places[0, i] + fusion.places[1, j]) % fusion.width
        expected[:, place] += fusion.signs[0, i] * fusion.signs[1, j] * seen[:, i] * question[:, j]
    torch.testing.assert_close(fusion.sketch(seen, question), expected, atol=1e-5, rtol=1e-5)


def test_inner_products_of_sketches_are_those_of_outer_products_on_average() -> None:
    a, b, c, d = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))
    estimates = []
    for seed in range(400):
        torch.manual_seed(seed)
        fusion = build_fusion("mcb", 8, 0.0)
        estimates.append(float((fusion.sketch(a, b) * fusion.sketch(c, d)).sum()))
    exact = float((a * c).sum() * (b * d).sum())
    found = torch.tensor(estimates)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 20  # standard errors
    assert float(found.std()) > 0


@pytest.mark.parametrize("fusion", ["mfb", "mutan"])
def test_factorised_fusions_are_sums_of_products(fusion: str) -> None:
    module, given = build_fusion(fusion, DIM, 0.0).eval(), looked()
    seen, question = module.of_seen(given.vector), module.of_question(given.asked.vector)
    expected = torch.zeros(3, DIM)
    for k in range(DIM):
        if fusion == "mfb":
            part = slice(k * MFB_FACTORS, (k + 1) * MFB_FACTORS)
            expected[:, k] = (seen[:, part] * question[:, part]).sum(1)
        else:
            part = slice(k, MUTAN_RANK * DIM, DIM)
            expected[:, k] = (seen[:, part].tanh() * question[:, part].tanh()).sum(1)
    expected = even(expected) if fusion == "mfb" else expected.tanh()
    torch.testing.assert_close(module(given)[0], expected)


def test_even_takes_signed_roots_and_a_mean_square_of_one() -> None:
    x = torch.tensor([[4.0, -9.0, 0.0, 1.0]])
    roots = torch.tensor([2.0, -3.0, 0.0, 1.0])
    torch.testing.assert_close(even(x)[0], roots / roots.square().mean().sqrt(), atol=1e-5, rtol=1e-5)


def test_bilinear_attention_is_a_sum_over_words_and_places() -> None:
    torch.manual_seed(2)
    module, given = build_fusion("ban", DIM, 0.0).eval(), looked()
    fused, alpha = module(given)
    for q in range(3):
        words, keys_of_words, keys = (
            given.asked.words[q],
            module.key_words(given.asked.words[q]),
            module.key_places(given.places[q]),
        )
        pairs = [
            (i, j) for i, j in itertools.product(range(5), range(4)) if given.asked.mask[q, i] and given.mask[q, j]
        ]
        for g in range(2):
            scores = torch.stack([(keys_of_words[i] * module.score.weight[g] * keys[j]).sum() for i, j in pairs])
            weights = (scores / DIM**0.5).softmax(0)
            joint = torch.zeros(DIM)
            for weight, (i, j) in zip(weights, pairs, strict=True):
                joint = joint + weight * module.of_words[g](words)[i] * module.of_places[g](given.places[q])[j]
            words = words + module.back[g](joint)
            at = torch.zeros(4).index_add(0, torch.tensor([j for _, j in pairs]), weights)
            torch.testing.assert_close(alpha[q, g], at, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fused[q], words[given.asked.mask[q]].sum(0), atol=1e-4, rtol=1e-4)


def test_stacked_attention_looks_again_with_what_it_saw() -> None:
    torch.manual_seed(2)
    module, given = build_attention("san:3", DIM, 0.0).eval(), looked()
    found = module(module.prepare(given.places, given.mask), given.mask, given.asked)
    for q in range(3):
        asked, real = given.asked.vector[q], given.mask[q]
        for layer in range(3):
            keys = given.places[q][real] @ module.of_places.weight[layer * DIM : (layer + 1) * DIM].T
            hidden = (keys + module.of_question[layer](asked)).tanh()
            alpha = module.score[layer](hidden).squeeze(-1).softmax(0)
            torch.testing.assert_close(found.attention[q, layer, real], alpha)
            seen, before = alpha @ given.places[q][real], asked
            asked = asked + seen
        torch.testing.assert_close(found.vector[q], seen)
        torch.testing.assert_close(found.asked.vector[q], before)


def test_top_down_attention_reads_scores_from_the_product_of_place_and_question() -> None:
    torch.manual_seed(2)
    module, given = build_attention("topdown", DIM, 0.0).eval(), looked()
    found = module(module.prepare(given.places, given.mask), given.mask, given.asked)
    for q in range(3):
        asked = module.of_question(given.asked.vector[q])
        real = given.places[q][given.mask[q]]
        alpha = torch.stack([module.score(module.of_places(place) * asked) for place in real]).squeeze(-1).softmax(0)
        torch.testing.assert_close(found.attention[q, 0, given.mask[q]], alpha)
        torch.testing.assert_close(found.vector[q], alpha @ real)


def test_several_looks_ask_with_words_of_their_own() -> None:
    torch.manual_seed(2)
    module, given = build_attention("topdown:3", DIM, 0.0).eval(), looked()
    given = given._replace(asked=given.asked._replace(mask=torch.arange(5) < torch.tensor([5, 3, 1])[:, None]))
    inner: dict[str, list[Tensor]] = {}
    found = module(module.prepare(given.places, given.mask), given.mask, given.asked, inner)
    (shares,) = inner["looks_to_words"]
    for q, length in enumerate((5, 3, 1)):
        words, real, seen = given.asked.words[q, :length], given.places[q][given.mask[q]], []
        for look, lean in enumerate((-LEAN, 0.0, LEAN)):
            order = [2 * k / max(length - 1, 1) - 1 for k in range(length)]
            share = torch.stack([module.pick(words[k])[0] + lean * order[k] for k in range(length)]).softmax(0)
            torch.testing.assert_close(shares[q, look, :length], share)
            asking = module.of_words(share @ words)
            alpha = torch.stack([module.score(module.of_places(place) * asking) for place in real])[:, 0].softmax(0)
            torch.testing.assert_close(found.attention[q, look, given.mask[q]], alpha)
            seen.append(alpha @ real)
        torch.testing.assert_close(found.vector[q], module.together(torch.cat(seen)))
    flat = build_attention("topdown:2", DIM, 0.0)
    with torch.no_grad():
        flat.pick.weight.zero_()
    flat(flat.prepare(given.places, given.mask), given.mask, given.asked, inner := {})
    first, last = inner["looks_to_words"][0][0].unbind()
    assert (first.diff() < 0).all() and torch.allclose(first, last.flip(0)), "they lean to either end"


def test_whereabouts_are_the_codes_of_the_places_looked_at() -> None:
    torch.manual_seed(2)
    module = Whereabouts(["image", "audio"], 2, DIM).eval()
    codes = {"image": torch.randn(3, 4, 4 * WAVES), "audio": torch.randn(3, 6, 4 * WAVES)}
    attention, question = torch.rand(3, 2, 10).softmax(-1), torch.randn(3, DIM)
    said = module(attention, codes, question)
    for q in range(3):
        total = torch.zeros(DIM)
        for name, places in (("image", range(4)), ("audio", range(4, 10))):
            numbers = []
            for look in range(2):
                share = attention[q, look, list(places)]
                numbers += [*(share @ codes[name][q]).tolist(), float(share.sum())]
            total += module.of_codes[name](torch.tensor(numbers))
        torch.testing.assert_close(said[q], module.norm(total) * module.of_question(question[q]), atol=1e-5, rtol=1e-4)


def test_co_attention_is_an_encoder_of_words_and_a_decoder_of_places() -> None:
    torch.manual_seed(2)
    module, given = build_attention("mcan:2", DIM, 0.0).eval(), looked()
    found = module(module.prepare(given.places, given.mask), given.mask, given.asked)
    for q in range(3):
        words = torch.cat([given.asked.words[q][given.asked.mask[q]], given.asked.vector[q : q + 1]])[None]
        places = given.places[q][given.mask[q]][None]
        every, all_places = (torch.ones(x.shape[:2], dtype=torch.bool) for x in (words, places))
        for layer in range(2):
            words = module.encode_feed[layer](module.encode[layer](words, words, every))
        words = module.norm_words(words)
        for layer in range(2):
            places = module.among[layer](places, places, all_places)
            places = module.feed[layer](module.guided[layer](places, words, every))
        places = module.norm_places(places)[0]
        for reduce, rows, vector in (
            (module.reduce[0], words[0], found.asked.vector),
            (module.reduce[1], places, found.vector),
        ):
            alpha = reduce.score(rows).squeeze(-1).softmax(0)
            torch.testing.assert_close(vector[q], alpha @ rows, atol=1e-5, rtol=1e-4)


# What is rejected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["san:0", "topdown:0", "none:1", "mcan:x", "san:-1", "mcan:"])
def test_numbers_of_layers_that_there_are_not(choice: str) -> None:
    with pytest.raises(ValueError, match="attention must be none, topdown:<looks>, san:<layers> or mcan:<layers>"):
        attention_and_layers(choice)


def test_unknown_names_and_no_answers() -> None:
    with pytest.raises(ValueError, match=r"unknown attention 'topdwon'.*Did you mean 'topdown'"):
        answerer("topdwon")
    with pytest.raises(ValueError, match=r"unknown fusion 'mut'.*Did you mean 'mutan'"):
        answerer("none", "mut")
    with pytest.raises(ValueError, match="needs answers to choose from: got none"):
        Answerer({}, (5, 6), [], AnswererConfig())
    with pytest.raises(ValueError, match="dim must be a multiple"):
        Answerer({"image": (6, 7)}, (5, 6), ["yes"], AnswererConfig(dim=65, attention="mcan"))


@pytest.mark.parametrize(("attention", "fusion"), EVERY)
def test_what_is_seen_and_what_is_asked_are_learned_together(attention: str, fusion: str) -> None:
    """One of 4 colours and one of 3 shapes at one of three places; the question alone is right three times in ten."""
    torch.manual_seed(0)
    shown = torch.cartesian_prod(torch.arange(4), torch.arange(3)).repeat(8, 1)  # (96, 2)
    seen = torch.cat([torch.eye(4)[shown[:, 0]], torch.eye(3)[shown[:, 1]]], dim=1) @ torch.randn(7, 16)  # (96, 16)
    places = 0.1 * torch.randn(96, 3, 16)
    places[torch.arange(96), torch.arange(96) % 3] += seen
    asked = torch.arange(96).div(12, rounding_mode="floor") % 2
    words = (torch.eye(2)[asked] @ torch.randn(2, 16))[:, None].repeat(1, 2, 1)  # (96, 2, 16)
    real = torch.ones(96, 3, dtype=torch.bool)
    image = Features(places, real, places.mean(dim=1) * 3, (3,))
    question = Features(words, real[:, :2], words[:, 0], (2,))
    targets = torch.where(asked == 0, shown[:, 0], 4 + shown[:, 1])
    settings = AnswererConfig(dim=32, attention=attention, fusion=fusion, hidden=32, dropout=0.0)
    head = Answerer({"image": (16, 16)}, (16, 16), list("abcdefg"), settings)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(head(question, {"image": image}).logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if float(loss.detach()) < 0.1:
            break
    right = head(question, {"image": image}).logits.argmax(1) == targets
    assert right.float().mean() > 0.95
    blind = head(question, {"image": rows(image, torch.randperm(96).tolist())}).logits.argmax(1) == targets
    assert blind.float().mean() < 0.6
