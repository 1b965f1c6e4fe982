"""People who talk alone, a clip each: GRID, LRS2, LRS3, AVSpeech, VoxCeleb2, and any folder of such clips."""

from __future__ import annotations

import re
from pathlib import Path

from mm.data.item import Faults, may_skip, parts, require
from mm.data.talk_files import (
    GRID_AV_PARTS,
    SAME_S,
    UNSEEN,
    Centred,
    alignment,
    avspeech_clips,
    avspeech_rows,
    grid_av_rows,
    lrs2_clips,
    lrs3_clips,
    transcript,
)
from mm.data.talks import Talk, Talks, are_there, gathered, named_speakers, part_of, track_beside
from mm.data.videos import held_out
from mm.media import VIDEO_FILES
from mm.naming import known

LRS = {"lrs2": lrs2_clips, "lrs3": lrs3_clips}
VIDEOS = {".mpg", *VIDEO_FILES}
SOUNDS = (".wav", ".flac", ".ogg")  # beside a face of your own; the first of these that is there is its voice
VECTORS = ".npy"  # of a face, one per frame


def grid_av(root: Path, split: str, speaker: str = "", skip_bad: bool = False) -> Talks:
    """Face crops of GRID in a layout of ours: 1,000 clips of speaker s1, and 10 of nine others.

    Args:
        root: holds `grid_av/index.jsonl` (a JSON object per line: id, speaker, split, sentence, for some words) and
            `grid_av/clips/{id}.mp4`, without sound, with `{id}.ogg`.
        split: "train", "val", "test" or "trainval".
        speaker: "" = s1 in all splits; "unseen" = test is the 10 clips of the others.
        skip_bad: leave out training clips of which a file is missing, and count them.

    Returns:
        Talks with "sentence" and, where known, "words" as `meta`: a [word, start in s, end in s] each.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a file of a clip is missing; the message names it.
        ValueError: a line is not of this form, an unknown speaker, or no clip is in the split.
    """
    if speaker:
        known(speaker, (UNSEEN,), "speaker of grid_av")
    wanted = {GRID_AV_PARTS[speaker if speaker and part == "test" else part] for part in parts(split)}
    index = require(root / "grid_av", "index.jsonl", "clips") / "index.jsonl"
    faults = Faults(f"grid_av {split}", may_skip(skip_bad, split))
    talks = []
    for line, row in grid_av_rows(index):
        face, voice = (index.parent / "clips" / f"{row['id']}.{suffix}" for suffix in ("mp4", "ogg"))
        if row["split"] in wanted and are_there(f"{index}:{line}", faults, face, voice):
            meta = {key: value for key, value in row.items() if key in ("sentence", "words")}
            talks.append(Talk(row["id"], row["speaker"], voice, face, meta=meta))
    return gathered(talks, faults, index, split)


def grid(root: Path, split: str, speaker: str = "", skip_bad: bool = False) -> Talks:
    """GRID: 33 speakers that are seen, 1,000 sentences of 3 s each (Cooke et al. 2006).

    No splits are published. Of all clips one in twenty is val and one is test, by the SHA-256 of "s1/bbaf2n".

    Args:
        root: holds `grid/s1/*.mpg` to `grid/s34/*.mpg`, whose sound tracks are the voices; or `grid/video/s1/*.mpg`,
            the voices being in `grid/audio/s1/*.wav` if there is a `grid/audio`. Any other video format will do.
            Beside a video a .json may say where the face is, see `mm.video.read_tracks`, else it is the whole picture.
            `grid/align/s1/*.align` or `grid/alignments/s1/*.align` may be there: begin, end (in 1/25000 s) and word.
        split: "train", "val", "test" or "trainval".
        speaker: who is the test set and nothing else: "s1", or several, "s1,s2,s20,s22"; "" = each is in all splits.
        skip_bad: leave out training clips without a sound or with a damaged alignment, and count them.

    Returns:
        Talks; with an alignment, `meta` has "sentence" and "words": a [word, start in s, end in s] each.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: `grid/audio` lacks a clip, or an alignment is damaged; the message names it.
        ValueError: an unknown speaker, or no clip is in the split.
    """
    wanted = parts(split)
    folder = root / "grid"
    videos = folder / "video" if (folder / "video").is_dir() else folder
    sounds = folder / "audio" if videos != folder and (folder / "audio").is_dir() else None
    words = folder / "align" if (folder / "align").is_dir() else folder / "alignments"
    found = [path for path in videos.glob("s[0-9]*") if re.fullmatch("s[0-9]+", path.name)]
    if not found:
        raise FileNotFoundError(
            f"the data set in {folder} must hold a folder of videos per speaker, s1 to s34 or video/s1 to video/s34: "
            "not found. docs/data.md says where it is published; data.root=FOLDER or MM_DATA names the folder that "
            "holds the data sets."
        )
    tested = named_speakers(speaker, [path.name for path in found])
    faults = Faults(f"grid {split}", may_skip(skip_bad, split))
    talks: dict[str, Talk] = {}
    for who in sorted(found, key=lambda path: int(path.name[1:])):
        for face in sorted(file for file in who.iterdir() if file.suffix.lower() in VIDEOS):
            name = f"{who.name}/{face.stem}"
            voice = sounds / f"{name}.wav" if sounds else face
            if part_of(name, who.name, tested) not in wanted:
                continue
            if name in talks:
                faults.add(f"{face}: the clip {name} must be one video: {talks[name].face} is another.")
            elif are_there(str(face), faults, voice):
                meta = alignment(words / f"{name}.align", faults)
                if meta is not None:
                    talks[name] = Talk(name, who.name, voice, face, track_beside(face), meta)
    return gathered(talks.values(), faults, videos, split)


def lrs(root: Path, split: str, name: str = "lrs2", skip_bad: bool = False, pretrain: bool = False) -> Talks:
    """LRS2 and LRS3: face crops of 160 and 224 pixels a side, of people on the BBC and at TED (Afouras et al. 2018).

    Who talks is not published: the speaker of a clip is the video that it was cut from. LRS2 has lists of train, val
    and test. LRS3 has no val: of the videos of its trainval the first 5 %, in the order of the SHA-256 of their names,
    are ours, and the others are train.

    Args:
        root: holds `lrs2/{train,val,test}.txt` with `lrs2/mvlrs_v1/main/VIDEO/CLIP.mp4`, or
            `lrs3/{trainval,test}/VIDEO/CLIP.mp4`. The transcript CLIP.txt may be there.
        split: "train", "val", "test" or "trainval".
        name: "lrs2" or "lrs3".
        skip_bad: leave out training clips that are listed but not there, or whose transcript is damaged; count them.
        pretrain: train has the longer clips too, of `lrs2/pretrain.txt` with `lrs2/mvlrs_v1/pretrain` or of
            `lrs3/pretrain`, but for those of videos that are in val or test.

    Returns:
        Talks, whose whole frame is the face, with "text" as `meta` where there is a transcript.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a clip is missing or listed twice, or a transcript is damaged; the message names it.
        ValueError: a list has a line of another form, an unknown name, or no clip is in the split.
    """
    find = LRS[known(name, LRS, "set of lip-reading sentences")]
    wanted, folder = parts(split), root / name
    faults = Faults(f"{name} {split}", may_skip(skip_bad, split))
    talks: dict[str, Talk] = {}
    for clip in find(folder, wanted, pretrain and "train" in wanted):
        if clip.name in talks:
            faults.add(f"{clip.where}: the clip {clip.name} is listed twice.")
        elif are_there(clip.where, faults, clip.face):
            meta = transcript(clip.face.with_suffix(".txt"), faults)
            if meta is not None:
                talks[clip.name] = Talk(clip.name, clip.video, clip.face, clip.face, meta=meta)
    return gathered(talks.values(), faults, folder, split)


def avspeech(root: Path, split: str, skip_bad: bool = False) -> Centred:
    """AVSpeech: clips of 3 to 10 s from YouTube with one voice and its face (Ephrat et al. 2018).

    Test is the published one, whose speakers are not in train. Of the videos of the published train the first 5 %, at
    most 1,000, in the order of the SHA-256 of their YouTube id, are val. Who talks is not published: the speaker of a
    clip is its video.

    Of a face the centre at the beginning is published, not the size: it is taken to fill a square of half the frame's
    height around it throughout. A .json beside a clip, see `mm.video.read_tracks`, takes the place of that.

    Args:
        root: holds `avspeech/avspeech_{train,test}.csv` as published (no header: YouTube id, start and end in seconds,
            x and y of the face's centre as shares of the frame) and the clips anywhere below `avspeech/train` and
            `avspeech/test`, named {id}_{start}.mp4, {id}_{start}_{end}.mp4, {id}_{start}-{end}.mp4 or
            {id}_{start}_{end}_video.mp4, the times in seconds, with three digits behind the point or more.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training clips that are not there or listed twice, and count them.

    Returns:
        Talks with "start_s", "end_s" and "centre" (x, y) as `meta`; a track is made when its talk is asked for.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a clip is missing (many are gone from YouTube: val and test want their rows removed, which
            belongs beside every figure) or listed twice, or a centre lies outside; the message names it.
        ValueError: a row is not of this form, or no clip is in the split.
    """
    wanted = parts(split)
    part = "test" if split == "test" else "train"
    folder = require(root / "avspeech", f"avspeech_{part}.csv", part)
    table = folder / f"avspeech_{part}.csv"
    val = held_out(row.video for row in avspeech_rows(table)) if split != "test" else set()
    faults = Faults(f"avspeech {split}", may_skip(skip_bad, split))
    clips = avspeech_clips(folder / part)
    talks: dict[str, Talk] = {}
    for row in avspeech_rows(table):
        if split != "test" and ("val" if row.video in val else "train") not in wanted:
            continue
        where, name = f"{table}:{row.line}", f"{row.video}_{row.start_s:.3f}"
        files = [file for start_s, file in clips.get(row.video, ()) if abs(start_s - row.start_s) <= SAME_S]
        if name in talks:
            faults.add(f"{where}: the clip {name} is listed twice.")
        elif not (0 <= row.x <= 1 and 0 <= row.y <= 1):
            faults.add(f"{where}: a face's centre must lie in the frame, which is 0 to 1: got {row.x}, {row.y}.")
        elif not files:
            faults.add(f"{where}: the clip {folder / part / name}.mp4 is not there; docs/data.md says how to name it.")
        else:
            face, meta = files[0], {"start_s": row.start_s, "end_s": row.end_s, "centre": [row.x, row.y]}
            talks[name] = Talk(name, row.video, face, face, track_beside(face), meta)
    return Centred(gathered(talks.values(), faults, table, split))


def voxceleb(root: Path, split: str, skip_bad: bool = False) -> Talks:
    """VoxCeleb2: face crops of 224 pixels a side from interviews with 6,112 people (Chung et al. 2018).

    Test is the published one. Of the speakers of the published dev the first 5 %, in the order of the SHA-256 of their
    names, are val. So nobody talks in two splits.

    Args:
        root: holds `voxceleb2/{dev,test}/mp4/SPEAKER/VIDEO/CLIP.mp4`, and the voices in
            `voxceleb2/{dev,test}/aac/SPEAKER/VIDEO/CLIP.m4a`, or without a folder `aac` in the videos themselves.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training clips without a voice, and count them.

    Returns:
        Talks, whose whole frame is the face, with "video" as `meta`: the YouTube id.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: `aac` lacks a clip; the message names it.
        ValueError: no clip is in the split.
    """
    wanted = parts(split)
    part = "test" if split == "test" else "dev"
    videos = require(root / "voxceleb2", f"{part}/mp4") / part / "mp4"
    sounds = videos.parent / "aac" if (videos.parent / "aac").is_dir() else None
    speakers = sorted(path.name for path in videos.glob("id*"))
    if split != "test":
        val = held_out(speakers)
        speakers = [speaker for speaker in speakers if ("val" if speaker in val else "train") in wanted]
    faults = Faults(f"voxceleb2 {split}", may_skip(skip_bad, split))
    talks = []
    for speaker in speakers:
        for face in sorted((videos / speaker).glob("*/*.mp4")):
            place = face.relative_to(videos)
            voice = sounds / place.with_suffix(".m4a") if sounds else face
            if are_there(str(face), faults, voice):
                name, meta = place.with_suffix("").as_posix(), {"video": place.parts[1]}
                talks.append(Talk(name, speaker, voice, face, meta=meta))
    return gathered(talks, faults, videos, split)


def talk_folder(path: Path, split: str, speaker: str = "", skip_bad: bool = False) -> Talks:
    """Every video of a folder of your own, with one person who talks in each.

    A video in a sub-folder is a talk of the speaker that this is named after; one directly in the folder is of a
    speaker of its own. The voice is the .wav, .flac or .ogg of the same name beside it, the first of these that is
    there, else its own sound track. A .json of the same name says where the face is, see `mm.video.read_tracks`;
    without one the whole picture is the face. Where there is no video, a .npy (N, D) with a sound beside it is a face
    as another network sees it, a vector per frame.

    The SHA-256 of its path within the folder decides where a talk belongs: 5 % are val and 5 % test.

    Args:
        path: of the folder.
        split: "train", "val", "test" or "trainval".
        speaker: who is the test set and nothing else, one or several ("anna,ben"); "" = each may be in all splits.
        skip_bad: leave out empty files and vectors without a sound of the training split, and count them.

    Raises:
        FileNotFoundError: no such folder, or no face in it.
        UnreadableError: a file is empty, or there is no sound for a .npy; the message names it.
        ValueError: an unknown speaker, or no talk is in the split.
    """
    wanted = parts(split)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} must be a folder of videos: there is none of this name. Check the path.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in {VECTORS, *VIDEOS} and file.is_file())
    filmed = {file.with_suffix("") for file in files if file.suffix.lower() != VECTORS}
    faces = [file for file in files if file.suffix.lower() != VECTORS or file.with_suffix("") not in filmed]
    if not faces:
        raise FileNotFoundError(f"{path} holds no video: looked for {', '.join(sorted({VECTORS, *VIDEOS}))}.")
    places = [face.relative_to(path) for face in faces]
    tested = named_speakers(speaker, (place.parts[0] for place in places))
    faults = Faults(f"{path} {split}", may_skip(skip_bad, split))
    talks = []
    for face, place in zip(faces, places, strict=True):
        name, who = place.as_posix(), place.parts[0]
        if part_of(name, who, tested) in wanted and (voice := _voice(face, faults)):
            talks.append(Talk(name, who, voice, face, track_beside(face)))
    return gathered(talks, faults, path, split)


def _voice(face: Path, faults: Faults) -> Path | None:
    """What is heard with a face of one's own, or None when a file is at fault and may be left out."""
    beside = [face.with_suffix(suffix) for suffix in SOUNDS]
    voice = next((sound for sound in beside if sound.is_file()), face)
    empty = [str(file) for file in dict.fromkeys((face, voice)) if file.stat().st_size == 0]
    if empty:
        faults.add(f"{' and '.join(empty)} must not be empty.")
    elif voice.suffix.lower() == VECTORS:
        faults.add(f"{face} must have a sound beside it, {face.stem}{SOUNDS[0]}, for vectors have none.")
    else:
        return voice
    return None
