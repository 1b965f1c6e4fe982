"""The encoder of faces: which frames it looks at, and that a batch gives what each clip gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mm import encoders
from mm.encoders.video import VideoEncoder, varied
from mm.video import FaceTrack, Frames


def encoder(**options) -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(**{"size": 32, "width": 16, "convs": 2, **options}).eval()


def clip(frames: int, seed: int = 0, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side), dtype=np.uint8)


def test_every_frame_goes_through_the_image_encoder() -> None:
    model = encoder(convs=0)
    frames = model.prepare(clip(5))  # (5, 1, 32, 32)
    with torch.no_grad():
        found = model(frames[None]).map[0]
        for k in range(5):
            map = model.image(frames[k].expand(1, 3, -1, -1)).map.flatten(1)
            torch.testing.assert_close(found[k : k + 1], model.out(model.into(map)), rtol=1e-4, atol=1e-5)


def test_a_large_map_is_taken_as_its_vector() -> None:
    model = encoder(name="small_cnn", size=64, convs=0)
    frames = model.prepare(clip(3))
    with torch.no_grad():
        found = model(frames[None]).map[0]
        vectors = model.image(frames.expand(-1, 3, -1, -1)).vector
    torch.testing.assert_close(found, model.out(model.into(vectors)), rtol=1e-4, atol=1e-5)


def test_a_frame_sees_two_frames_either_way_for_each_convolution() -> None:
    model = encoder(convs=2)
    frames = torch.from_numpy(clip(21, side=32))[None, :, None]
    other = frames.clone()
    other[0, 10] = 255 - other[0, 10]
    with torch.no_grad():
        changed = (model(frames).map - model(other).map).norm(dim=-1)[0]
    assert changed[6:15].min() > 1e-6
    assert max(changed[:6].max(), changed[15:].max()) == 0


def test_a_batch_gives_what_each_clip_gives_alone() -> None:
    model = encoder()
    clips = [clip(9), clip(5, 1), clip(12, 2)]
    together = model.encode(clips)
    for row, frames in enumerate(clips):
        alone = model.encode([frames])
        assert together.mask[row].sum() == len(frames)
        torch.testing.assert_close(together.map[row, : len(frames)], alone.map[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.vector[row], alone.vector[0], rtol=1e-4, atol=1e-5)


def test_videos_of_any_rate_come_at_the_rate_of_the_model() -> None:
    model = encoder()
    grey = np.arange(30, dtype=np.uint8) * 8
    pictures = np.broadcast_to(grey[:, None, None], (30, 40, 40))
    fifty = model.prepare(Frames(pictures, np.arange(30) / 50, 0.6))
    assert fifty[:, 0, 0, 0].tolist() == grey[::2].tolist()
    times = np.array([0.0, 0.01, 0.2, 0.33])  # a variable rate
    varying = model.prepare(Frames(pictures[:4], times, 0.4))
    expected = [grey[np.searchsorted(times, k / 25 + 1e-6) - 1] for k in range(10)]
    assert varying[:, 0, 0, 0].tolist() == expected


def test_a_part_of_a_face_that_moves_is_cut_out() -> None:
    model = encoder(size=8, part=[0.0, 0.5, 1.0, 1.0])
    pictures = np.zeros((4, 64, 64), np.uint8)
    for k in range(4):  # a face of 16 x 16 px that moves right; its lower half is bright
        pictures[k, 24:32, 8 + 8 * k : 24 + 8 * k] = 200
    boxes = np.array([[8 + 8 * k, 16, 24 + 8 * k, 32] for k in range(4)], float)
    track = FaceTrack("face", np.arange(4) / 25, boxes)
    found = model.prepare((Frames(pictures, np.arange(4) / 25, 4 / 25), track))
    assert found.shape == (4, 1, 8, 8)
    assert int(found[..., 1:-1].min()) >= 199  # at its edge a face is blended with what is beside it
    assert int(model.prepare(pictures).min()) == 0


def test_embeddings_stand_in_place_of_frames(tmp_path) -> None:
    model = encoder(name="embeddings", size=6)
    vectors = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    np.save(tmp_path / "face.npy", vectors)
    read = model.prepare(tmp_path / "face.npy")
    assert np.array_equal(read.numpy(), vectors)
    with torch.no_grad():
        assert torch.equal(model(read[None]).map, model(model.prepare(vectors)[None]).map)
    with pytest.raises(ValueError, match=r"must be \(N, 6\), a vector per frame: .*face.npy is \(7, 3\)"):
        np.save(tmp_path / "face.npy", vectors[:, :3])
        model.prepare(tmp_path / "face.npy")


def test_embeddings_that_would_have_to_be_unpickled_are_refused(tmp_path) -> None:
    np.save(tmp_path / "face.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        encoder(name="embeddings", size=6).prepare(tmp_path / "face.npy")


def test_a_frozen_network_does_not_train_but_what_follows_does() -> None:
    model = encoder(freeze=True).train()
    assert not model.image.training
    assert not any(p.requires_grad for p in model.image.parameters())
    frames = torch.from_numpy(clip(6, side=32))[None, :, None]
    model(frames).map.square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("image."))


def test_varied_clips_are_moved_whole_and_only_while_training() -> None:
    frames = torch.from_numpy(clip(4, side=32))[None, :, None].repeat(64, 1, 1, 1, 1)
    frames[:, 1:] = frames[:, :1]  # nothing moves within a clip
    torch.manual_seed(0)
    found = varied(frames, 1.0)
    assert bool((found[:, 1:] == found[:, :1]).all())
    assert len({row.numpy().tobytes() for row in found}) > 60
    assert torch.equal(varied(frames, 0.0), frames)
    model = encoder(augment=1.0)
    with torch.no_grad():
        assert torch.equal(model(frames[:1]).map, model(frames[:1]).map)
    assert abs(float(found.float().mean() / frames.float().mean()) - 1) < 0.1


def test_it_is_kept_and_read_back_whole_or_as_an_image_encoder(tmp_path) -> None:
    model = encoder(part=[0.1, 0.2, 0.9, 1.0])
    model.save_pretrained(tmp_path)
    again = VideoEncoder.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.fingerprint() == model.fingerprint()
    frames = encoders.load(tmp_path, "image")  # what other tasks start from with encoder.image.init
    assert isinstance(frames, encoders.ImageEncoder)
    assert frames.fingerprint() == model.image.fingerprint()
    assert encoders.load(tmp_path, "video").fingerprint() == model.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps must be positive"),
        ({"convs": -1}, "convs at least 0"),
        ({"augment": 2}, "augment in 0..1"),
        ({"part": [0.5, 0, 0.5, 1]}, "part must be left, top, right, bottom"),
        ({"part": [0, 1, 1]}, "part must be left, top, right, bottom"),
        ({"name": "embeddings", "size": 0}, "embeddings need their size"),
        ({"name": "embeddings", "size": 6, "augment": 0.5}, "take no layer, freeze, augment or part"),
        ({"name": "lips_cn"}, "lips_cnn"),
    ],
)
def test_settings_that_do_not_go_together_are_rejected(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_view_is_rejected() -> None:
    with pytest.raises(ValueError, match="videos have no fixed crops"):
        encoder().prepare(clip(3), view=1)
