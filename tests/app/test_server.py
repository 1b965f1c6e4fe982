"""What the page's server gives to whoever asks: the page and its own uploads, and nothing else of this machine."""

from __future__ import annotations

import http.client
import json
import signal
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from mm import encoders
from tests.app.conftest import Hostile, Served
from tests.shared import Scene

JSON = {"Content-Type": "application/json"}


def asked(
    served: Served, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, content and headers of one request, whose path is sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def uploaded(served: Served, name: str, content: bytes) -> str:
    """Where an upload is kept, as the page is told."""
    edge = uuid.uuid4().hex
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    status, answer, _ = asked(served, "/gradio_api/upload", body, headers)
    assert status == 200, answer
    return json.loads(answer)[0]


def pressed(served: Served, button: str, *given: Any) -> dict[str, Any]:
    """What comes back when a button is pressed with these inputs, behind which the defaults follow."""
    config = json.loads(asked(served, "/config")[1])
    parts = {one["id"]: one for one in config["components"]}
    numbers = [
        (number, one["inputs"])
        for number, one in enumerate(config["dependencies"])
        for id_, event in one["targets"]
        if event == "click" and parts[id_]["props"].get("value") == button
    ]
    ((number, inputs),) = numbers
    defaults = [parts[one]["props"].get("value") for one in inputs]
    session = uuid.uuid4().hex
    join = {"data": [*given, *defaults[len(given) :]], "fn_index": number, "session_hash": session}
    status, answer, _ = asked(served, "/gradio_api/queue/join", json.dumps(join).encode(), JSON)
    assert status == 200, answer
    _, stream, _ = asked(served, f"/gradio_api/queue/data?session_hash={session}")
    events = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
    return next(one for one in events if one["msg"] == "process_completed")


def file_data(path: str, known: bool = True) -> dict[str, Any]:
    return {"path": path, **({"meta": {"_type": "gradio.FileData"}} if known else {})}


def test_no_file_of_this_machine_is_served(
    served: Served, tiny_run: Path, index_folder: Path, own_table: Path, captioning_run: Path
) -> None:
    checkpoint = encoders.find(captioning_run)
    secrets = [
        Path("/etc/passwd"),
        Path("/proc/self/environ"),
        tiny_run / "config.yaml",
        checkpoint / "model.safetensors",
        next(index_folder.glob("v*/items.sqlite")),
        own_table,
        own_table.parent / "red-circle.jpg",
        Path(__file__),
        served.log,
    ]
    climb = "../" * 12
    for secret in secrets:
        assert secret.exists(), secret
        bare = str(secret).lstrip("/")
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/static/",
            "/static/",
            "/assets/",
            "/theme/",
            "/svelte/",
        ):
            for path in (
                f"/{bare}",
                f"{climb}{bare}",
                quote(f"{climb}{bare}", safe=""),
                f"/{climb}{bare}",
                f"//{bare}",
            ):
                status, content, _ = asked(served, route + path)
                assert status in (400, 403, 404) or b"gradio_config" in content, (route + path, status)
                assert secret.read_bytes()[:200] not in content or not secret.read_bytes(), route + path


def test_nothing_is_fetched_from_elsewhere(served: Served) -> None:
    for path in (
        "/gradio_api/file=http://example.com/a.png",
        "/gradio_api/file=https%3A%2F%2Fexample.com/a.png",
        "/gradio_api/file=%68ttp://127.0.0.1:1/",
        "/gradio_api/proxy=https://example.com/",
        "/file=HTTP://example.com",
    ):
        status, content, _ = asked(served, path)
        assert (status, content) == (403, b"this page serves nothing from elsewhere"), path
    _, content, headers = asked(served, "/")
    policy = headers["content-security-policy"]
    assert "default-src 'self' data: blob:" in policy and "http" not in policy
    assert b'src="http' not in content and b'rel="stylesheet" href="http' not in content
    assert json.loads(asked(served, "/config")[1])["analytics_enabled"] is False
    assert asked(served, "/openapi.json")[0] == asked(served, "/docs")[0] == 404


def test_a_foreign_name_that_leads_here_is_no_way_in(served: Served) -> None:
    assert asked(served, "/", headers={"Host": "evil.example"})[0] == 400
    assert asked(served, "/", headers={"Host": urlsplit(served.url).netloc})[0] == 200
    assert asked(served, "/", headers={"Host": "localhost"})[0] == 200


@pytest.mark.parametrize(
    "name", ["../../../../../tmp/evil.png", "..%2F..%2Fevil.png", "/etc/evil.png", "a\\..\\evil.png"]
)
def test_an_upload_stays_where_uploads_are_kept(served: Served, scene: Scene, name: str) -> None:
    path = Path(uploaded(served, name, scene.image.read_bytes()))
    assert path.parents[1].name.startswith("mm-page-") and ".." not in path.parts
    assert path.read_bytes() == scene.image.read_bytes()
    status, content, _ = asked(served, f"/gradio_api/file={quote(str(path))}")
    assert (status, content) == (200, scene.image.read_bytes())
    assert not Path("/tmp/evil.png").exists() and not Path("/etc/evil.png").exists()


def test_an_uploaded_page_is_not_shown_as_a_page(served: Served) -> None:
    for name in ("evil.html", "evil.svg"):
        path = uploaded(served, name, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
        _, _, headers = asked(served, f"/gradio_api/file={path}")
        assert headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("known", [True, False])
def test_a_forged_upload_is_not_read(served: Served, own_table: Path, scene: Scene, known: bool) -> None:
    """A request may name any file as if it had been uploaded: one of the run's own pictures, a secret, a folder."""
    own = uploaded(served, "scene.png", scene.image.read_bytes())
    assert pressed(served, "Describe", file_data(own, known))["success"]
    green = str(own_table.parent / "green-square.jpg")
    for path in (
        green,
        "/etc/passwd",
        f"{own}/../../../../etc/passwd",
        "http://127.0.0.1:1/a.png",
        "file:///etc/passwd",
    ):
        for answer in (
            pressed(served, "Describe", file_data(path, known)),
            pressed(served, "Search", {"text": "", "files": [file_data(path, known)]}),
            pressed(served, "Separate", file_data(path, known), file_data(path, known), None, [file_data(path, known)]),
        ):
            assert not answer["success"], path
            assert "green" not in json.dumps(answer["output"].get("data", "")) and "root:" not in json.dumps(answer)
    names = {path.name for path in Path(own).parents[1].rglob("*")}
    assert "scene.png" in names and not names & {"green-square.jpg", "passwd", "a.png"}  # nothing was copied


def test_what_is_wrong_with_an_upload_is_said_without_where_it_lies(served: Served, hostile: Hostile) -> None:
    before = len(served.log.read_text())
    for file, said in (
        (hostile.bomb, "decompression bomb"),
        (hostile.no_picture, "cannot identify image file"),
        (hostile.empty, "cannot identify image file"),
        (hostile.hours, "must be of 5 minutes at most"),
    ):
        answer = pressed(served, "Describe", file_data(uploaded(served, file.name, file.read_bytes())))
        assert not answer["success"] and said in answer["output"]["error"], answer
        assert "mm-page-" not in answer["output"]["error"] and file.name in answer["output"]["error"]
    path = uploaded(served, "song.wav", hostile.no_sound.read_bytes())
    answer = pressed(served, "Classify", file_data(path))
    assert not answer["success"] and "song.wav" in answer["output"]["error"]
    assert pressed(served, "Search", {"text": "a red circle", "files": []})["success"]
    assert served.process.poll() is None and "Traceback" not in served.log.read_text()[before:]


def test_what_is_no_longer_kept_is_asked_for_again(served: Served, scene: Scene) -> None:
    path = uploaded(served, "scene.png", scene.image.read_bytes())
    Path(path).unlink()
    answer = pressed(served, "Describe", file_data(path))
    assert not answer["success"] and "scene.png is not kept any longer. Upload it again" in answer["output"]["error"]


def test_a_slider_without_a_number_has_its_own(served: Served, scene: Scene) -> None:
    before = len(served.log.read_text())
    path = uploaded(served, "scene.png", scene.image.read_bytes())
    for beam in (None, 10**9, -1):
        assert pressed(served, "Describe", file_data(path), beam)["success"]
    assert "Traceback" not in served.log.read_text()[before:]


@pytest.mark.parametrize("ended", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_uploads_are_gone_when_the_page_ends(serve, separation_run: Path, scene: Scene, ended: signal.Signals) -> None:
    served = serve(separation_run)
    kept = Path(uploaded(served, "scene.png", scene.image.read_bytes())).parents[1]
    assert kept.name.startswith("mm-page-") and kept.is_dir()
    browser = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    browser.request("GET", f"/gradio_api/heartbeat/{uuid.uuid4().hex}")  # which a page keeps open as long as it is seen
    assert browser.getresponse().status == 200
    served.process.send_signal(ended)
    assert served.process.wait(timeout=60) == 0
    browser.close()
    assert not kept.exists() and "Traceback" not in served.log.read_text()


def test_the_map_answers_whatever_it_is_asked(served: Served) -> None:
    config = json.loads(asked(served, "/config")[1])
    ((number),) = [one["id"] for one in config["components"] if one["props"].get("elem_id") == "map"]

    def called(name: str, given: Any) -> tuple[int, bytes]:
        body = {"session_hash": "s", "component_id": number, "fn_name": name, "data": given}
        return asked(served, "/gradio_api/component_server", json.dumps(body).encode(), JSON)[:2]

    status, content = called("preview", ["PCA", 0])
    assert status == 200 and b"data:image/jpeg" in content
    for given in (None, "/etc/passwd", ["PCA", "/etc/passwd"], ["/etc/passwd", 0], ["PCA", 10**9]):
        status, content = called("preview", given)
        assert status == 200 and b'class=\\"missing\\"' in content and b"root:" not in content
    assert b"8 image" in called("inside", ["PCA", 0, 0, 1, 1])[1]
    status, content = called("inside", ["PCA", 0, 0, 10**400, 1])
    assert status == 200 and b'class=\\"missing\\"' in content
    for name in ("__init__", "get_config", "postprocess", "../x"):
        assert called(name, [])[0] == 404
