"""The page in a real browser that hears a wav through its microphone, and what the server sends beside it."""

import pytest
import soundfile
from browser import CHROMIUM, browser
from served import served
from streams import noise
from test_websocket import get

from kit.serving.page import FOLDER

SHOWN = "document.getElementById('{}').textContent"


def test_only_files_of_the_page_are_sent_and_nothing_else_may_run(server):
    status, text = get(server, "/")
    assert status == 200 and '<script type="module" src="page/app.js">' in text
    for path in FOLDER.iterdir():
        if path.suffix != ".html":
            assert get(server, f"/page/{path.name}") == (200, path.read_text("utf-8"))
    for name in ("..%2fpage.py", "%2e%2e/page.py", "../../../etc/passwd", "nothing.js", "", "%00"):
        assert get(server, f"/page/{name}")[0] in (404, 307)
    assert "<script>" not in text and " style=" not in text and " on" + "click=" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as Debian's package of that name brings it")
def test_a_person_speaks_adds_a_name_and_reads(export, tmp_path):
    soundfile.write(tmp_path / "said.wav", noise(8.0).numpy(), 16000)
    with served(export, "serving.token=hush", "decoding.max_seconds=2") as server:
        with browser(tmp_path, tmp_path / "said.wav") as page:
            page.open(f"http://{server.address}/")
            page.run("document.getElementById('hotword').value = '外滩，β'")
            page.run("document.getElementById('add').requestSubmit()")
            assert page.run("document.querySelectorAll('#hotwords li').length") == 2
            page.run("document.getElementById('microphone').click()")
            page.until("!document.getElementById('access').hidden")
            assert "token" in page.run(SHOWN.format("state"))
            page.run("document.getElementById('token').value = 'hush'")
            page.run("document.getElementById('access').requestSubmit()")
            page.until(f"{SHOWN.format('state')} === 'Listening'")
            page.until("document.querySelectorAll('#hotwords li').length === 1")  # nobody can pronounce the other
            assert "β" in page.run(SHOWN.format("rejected"))
            page.until("document.querySelectorAll('#finals li').length")
            assert all(page.run("[...document.querySelectorAll('#finals span')].map(text => text.textContent)"))
            page.run("document.getElementById('hotword').value = '上海'")
            page.run("document.getElementById('add').requestSubmit()")
            page.until("document.querySelectorAll('#hotwords li').length === 2")
            page.run("document.getElementById('microphone').click()")
            page.until(f"{SHOWN.format('state')} === 'Ready'")
            assert page.run(SHOWN.format("final")).endswith(" ms")
            assert page.run(
                "[...document.querySelectorAll('button, input')].every(x => x.labels?.length || x.innerText)"
            )
            page.look(390, 844, phone=True)
            assert page.run("document.documentElement.scrollWidth <= 390")
            assert page.errors == []
