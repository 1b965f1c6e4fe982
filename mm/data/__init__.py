"""Data sets as sequences of `Item`, and how they become batches.

items = load(DataConfig(name="flickr8k"), "train")
pairs = Pairs(items, {"image": image_encoder.prepare, "text": text_encoder.prepare}, seed=0)
for batch in Batches(pairs, batch_size=128, seed=0)(start_step=0): ...
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mm.config import DataConfig
from mm.data.asked import AskedScenes, kept, questions_of, unseen
from mm.data.audio_captions import audiocaps, clotho
from mm.data.cache import Cache, DamagedCacheError, cached
from mm.data.collate import Inputs, collate
from mm.data.digit_talks import DigitTalks
from mm.data.easy_vqa import easy_vqa
from mm.data.faces import FPS
from mm.data.frozen import caches
from mm.data.gallery import (
    Entry,
    Prepared,
    folder,
    gallery,
    prepared,
    readable,
    sentences,
    stable_id,
    text_key,
    texts,
    unique,
)
from mm.data.item import MODALITIES, Faults, Item, Items, Question, UnreadableError, data_root, parts
from mm.data.karpathy import coco, flickr8k, flickr8k_spoken, flickr30k
from mm.data.loader import Batches
from mm.data.localised import boxed_table, flickr_soundnet, vgg_ss
from mm.data.mixed import mixed
from mm.data.mosaics import DIGIT_MOSAICS, ESC10_MOSAICS, Mosaics, digit_mosaics, esc10_mosaics
from mm.data.pairs import Pairs
from mm.data.reasoning import clevr, gqa
from mm.data.recipes import recipe1m
from mm.data.shards import shards
from mm.data.sounding import SoundingScenes
from mm.data.sounds import esc10, esc50
from mm.data.spoken import spoken_digits
from mm.data.synthetic import Scenes
from mm.data.table import table
from mm.data.talkers import SAMPLE_RATE as TALK_RATE
from mm.data.talkers import Talkers
from mm.data.talking_faces import avspeech, grid, grid_av, lrs, talk_folder, voxceleb
from mm.data.talks import Talk, Talks
from mm.data.videos import vggsound, video_folder
from mm.data.voices import SAMPLE_RATE
from mm.data.vqa_files import V1, V1_CHOICES, V2, V2_TEST_DEV, vqa
from mm.naming import known

__all__ = [
    "MODALITIES",
    "READERS",
    "AskedScenes",
    "Batches",
    "Cache",
    "DamagedCacheError",
    "DigitTalks",
    "Entry",
    "Faults",
    "Inputs",
    "Item",
    "Items",
    "Mosaics",
    "Pairs",
    "Prepared",
    "Question",
    "Scenes",
    "SoundingScenes",
    "Talk",
    "Talkers",
    "Talks",
    "UnreadableError",
    "audiocaps",
    "avspeech",
    "cached",
    "caches",
    "check_sample_rate",
    "check_talk_rate",
    "clevr",
    "clotho",
    "coco",
    "collate",
    "digit_mosaics",
    "easy_vqa",
    "esc10",
    "esc10_mosaics",
    "esc50",
    "flickr8k",
    "flickr8k_spoken",
    "flickr30k",
    "flickr_soundnet",
    "folder",
    "gallery",
    "gqa",
    "grid",
    "grid_av",
    "kept",
    "load",
    "load_asked",
    "load_localised",
    "load_talks",
    "lrs",
    "mixed",
    "prepared",
    "questions_of",
    "readable",
    "recipe1m",
    "sentences",
    "shards",
    "spoken_digits",
    "stable_id",
    "table",
    "talk_folder",
    "text_key",
    "texts",
    "unique",
    "unseen",
    "vgg_ss",
    "vggsound",
    "video_folder",
    "voxceleb",
    "vqa",
]

EVALUATION_SCENES = 1000  # of the embedded world, in val and in test

Reader = Callable[[DataConfig, str, int], Sequence[Item]]


def _synthetic(cfg: DataConfig, split: str, seed: int) -> Sequence[Item]:
    return Scenes(split, cfg.scenes if split == "train" else EVALUATION_SCENES, seed)


def own_file(cfg: DataConfig) -> Path:
    """The file or the folder of a data set of one's own, or the pattern of its files."""
    if not cfg.file:
        others = {"videos": "FOLDER", "talks": "FOLDER", "shards": "'FOLDER/{split}-*.tar'"}
        what = others.get(cfg.name, "FILE.csv or FILE.jsonl")
        raise ValueError(f"data.name={cfg.name} needs data.file={what}, see docs/data.md: got none.")
    return Path(cfg.file)


def _table(cfg: DataConfig, split: str, seed: int) -> Sequence[Item]:
    return table(own_file(cfg), split, cfg.skip_bad)


READERS: dict[str, Reader] = {
    "audiocaps": lambda cfg, split, seed: audiocaps(data_root(cfg), split, cfg.skip_bad),
    "clotho": lambda cfg, split, seed: clotho(data_root(cfg), split, cfg.skip_bad),
    "coco": lambda cfg, split, seed: coco(data_root(cfg), split, cfg.skip_bad),
    "esc10": lambda cfg, split, seed: esc10(data_root(cfg), split, cfg.fold),
    "esc50": lambda cfg, split, seed: esc50(data_root(cfg), split, cfg.fold),
    "flickr30k": lambda cfg, split, seed: flickr30k(data_root(cfg), split, cfg.skip_bad),
    "flickr8k": lambda cfg, split, seed: flickr8k(data_root(cfg), split, cfg.skip_bad),
    "flickr8k_spoken": lambda cfg, split, seed: flickr8k_spoken(data_root(cfg), split, cfg.skip_bad),
    "mixed": lambda cfg, split, seed: mixed(cfg, split, seed, READERS),
    "recipe1m": lambda cfg, split, seed: recipe1m(data_root(cfg), split, cfg.skip_bad),
    "shards": lambda cfg, split, seed: shards(str(own_file(cfg)), split, cfg.skip_bad),
    "spoken_digits": lambda cfg, split, seed: spoken_digits(data_root(cfg), split, cfg.speaker),
    "synthetic": _synthetic,
    "table": _table,
}

ASKED: dict[str, Reader] = {
    "clevr": lambda cfg, split, seed: clevr(data_root(cfg), split, cfg.skip_bad),
    "easy_vqa": lambda cfg, split, seed: easy_vqa(data_root(cfg), split, cfg.skip_bad),
    "gqa": lambda cfg, split, seed: gqa(data_root(cfg), split, cfg.skip_bad),
    "table": _table,
    "vqa_v1": lambda cfg, split, seed: vqa(data_root(cfg), V1, split, cfg.skip_bad),
    "vqa_v1_choices": lambda cfg, split, seed: vqa(data_root(cfg), V1_CHOICES, split, cfg.skip_bad),
    "vqa_v2": lambda cfg, split, seed: vqa(data_root(cfg), V2, split, cfg.skip_bad),
    "vqa_v2_test_dev": lambda cfg, split, seed: vqa(data_root(cfg), V2_TEST_DEV, split, cfg.skip_bad),
}


def _mosaics(cfg: DataConfig, split: str, other: int) -> int:
    return cfg.scenes if split == "train" else other


def _sounding(cfg: DataConfig, split: str, seed: int) -> Sequence[Item]:
    return SoundingScenes(split, cfg.scenes if split == "train" else EVALUATION_SCENES, seed, cfg.sources)


LOCALISED: dict[str, Reader] = {
    "digit_mosaics": lambda cfg, split, seed: digit_mosaics(
        data_root(cfg), split, _mosaics(cfg, split, DIGIT_MOSAICS), seed, cfg.speaker
    ),
    "esc10_mosaics": lambda cfg, split, seed: esc10_mosaics(
        data_root(cfg), split, _mosaics(cfg, split, ESC10_MOSAICS), seed, cfg.fold
    ),
    "flickr_soundnet": lambda cfg, split, seed: flickr_soundnet(data_root(cfg), split, cfg.skip_bad),
    "synthetic": _sounding,
    "table": lambda cfg, split, seed: boxed_table(own_file(cfg), split, cfg.skip_bad),
    "vggsound": lambda cfg, split, seed: vggsound(data_root(cfg), split, cfg.skip_bad),
    "vggss": lambda cfg, split, seed: vgg_ss(data_root(cfg), split, cfg.skip_bad),
    "videos": lambda cfg, split, seed: video_folder(own_file(cfg), split, cfg.skip_bad),
}


EVALUATION_TALKS = 400  # of what is drawn, in val and in test


def _talkers(cfg: DataConfig, split: str, seed: int) -> Sequence[Talk]:
    n = cfg.scenes if split == "train" else EVALUATION_TALKS
    return Talkers(split, n, seed, unseen=known(cfg.speaker, ("", "unseen"), "speaker of the embedded world") != "")


def _digit_talks(cfg: DataConfig, split: str, seed: int) -> Sequence[Talk]:
    n = cfg.scenes if split == "train" else EVALUATION_TALKS
    return DigitTalks(data_root(cfg), split, n, seed, cfg.speaker)


TALKS: dict[str, Callable[[DataConfig, str, int], Sequence[Talk]]] = {
    "avspeech": lambda cfg, split, seed: avspeech(data_root(cfg), split, cfg.skip_bad),
    "grid": lambda cfg, split, seed: grid(data_root(cfg), split, cfg.speaker, cfg.skip_bad),
    "grid_av": lambda cfg, split, seed: grid_av(data_root(cfg), split, cfg.speaker, cfg.skip_bad),
    "lrs2": lambda cfg, split, seed: lrs(data_root(cfg), split, "lrs2", cfg.skip_bad),
    "lrs2_pretrain": lambda cfg, split, seed: lrs(data_root(cfg), split, "lrs2", cfg.skip_bad, pretrain=True),
    "lrs3": lambda cfg, split, seed: lrs(data_root(cfg), split, "lrs3", cfg.skip_bad),
    "lrs3_pretrain": lambda cfg, split, seed: lrs(data_root(cfg), split, "lrs3", cfg.skip_bad, pretrain=True),
    "spoken_digits": _digit_talks,
    "synthetic": _talkers,
    "talks": lambda cfg, split, seed: talk_folder(own_file(cfg), split, cfg.speaker, cfg.skip_bad),
    "voxceleb": lambda cfg, split, seed: voxceleb(data_root(cfg), split, cfg.skip_bad),
}
DRAWN_TALKS = ("spoken_digits", "synthetic")  # whose faces are drawn, and whose voices have one rate


def check_talk_rate(name: str, sample_rate: int, fps: float) -> None:
    """Reject encoders that would take what is drawn for faster or slower.

    Raises:
        ValueError: they take another rate of samples or frames.
    """
    if name in DRAWN_TALKS and (sample_rate, fps) != (TALK_RATE, FPS):
        raise ValueError(
            f"{name!r} talks at {TALK_RATE} Hz and {FPS} frames a second: got encoder.audio.sample_rate={sample_rate} "
            f"and encoder.video.fps={fps:g}. Set them to these."
        )


def check_sample_rate(name: str, rate: int) -> None:
    """Reject an encoder that would take the embedded world's sounds for faster or slower ones.

    Raises:
        ValueError: it reads at another rate.
    """
    if name == "synthetic" and rate != SAMPLE_RATE:
        raise ValueError(
            f"the embedded world sounds at {SAMPLE_RATE} Hz: got encoder.audio.sample_rate={rate}. Leave it at "
            f"{SAMPLE_RATE}."
        )


def _check(cfg: DataConfig, split: str) -> None:
    """Reject a split that there is not, and the sets of a mixture where none is asked for."""
    parts(split)
    if cfg.sets and cfg.name != "mixed":
        raise ValueError(
            f"data.sets is for data.name=mixed: got data.name={cfg.name} and data.sets={cfg.sets}. Set the one, or "
            "leave out the other, data.sets={}."
        )


def load(cfg: DataConfig, split: str, seed: int = 0) -> Sequence[Item]:
    """One split of the data set that `cfg` names.

    Args:
        cfg: name, root and the settings of the set.
        split: "train", "val", "test", or "trainval" for train and val together.
        seed: of the embedded world; sets on disk are what they are.

    Raises:
        ValueError: an unknown data set or split.
        FileNotFoundError: the set is not in its folder.
    """
    _check(cfg, split)
    return READERS[known(cfg.name, READERS, "data set")](cfg, split, seed)


def load_asked(cfg: DataConfig, split: str, seed: int = 0, modalities: Sequence[str] = ("image",)) -> Sequence[Item]:
    """One split of the questions that `cfg` names, in items that have them.

    Args:
        cfg: as for `load`.
        split: as for `load`.
        seed: of the embedded world.
        modalities: what questions may be about; without any, the questions of all kinds, to be answered unseen.

    Raises:
        ValueError: an unknown data set or split.
        FileNotFoundError: the set is not in its folder.
    """
    _check(cfg, split)
    items: Sequence[Item]
    if known(cfg.name, (*ASKED, "synthetic"), "data set with questions") != "synthetic":
        items = ASKED[cfg.name](cfg, split, seed)
    else:
        n = cfg.scenes if split == "train" else EVALUATION_SCENES
        seen, heard = (modality in modalities or not modalities for modality in ("image", "audio"))
        items = AskedScenes(split, n, seed, seen=seen, heard=heard)
    return items if modalities else unseen(items)


def load_localised(cfg: DataConfig, split: str, seed: int = 0) -> Sequence[Item]:
    """One split of the pairs of a picture and a sound that `cfg` names; `meta["boxes"]` says where it is known.

    Args:
        cfg: as for `load`.
        split: as for `load`.
        seed: of the embedded world and of mosaics.

    Raises:
        ValueError: an unknown data set or split.
        FileNotFoundError: the set is not in its folder.
    """
    _check(cfg, split)
    return LOCALISED[known(cfg.name, LOCALISED, "data set of sounds in pictures")](cfg, split, seed)


def load_talks(cfg: DataConfig, split: str, seed: int = 0) -> Sequence[Talk]:
    """One split of the people who talk that `cfg` names; it has their `speakers` too.

    Args:
        cfg: as for `load`.
        split: as for `load`; "trainval" of sets on disk alone.
        seed: of what is drawn.

    Raises:
        ValueError: an unknown data set or split.
        FileNotFoundError: the set is not in its folder.
    """
    _check(cfg, split)
    return TALKS[known(cfg.name, TALKS, "data set of people who talk")](cfg, split, seed)
