"""The page in a real browser: headless Chromium plays the embedded checkpoint. Screenshots: outputs/screenshots."""

import asyncio
import base64
import io
import json
import re
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf import read_actions, read_video
from tests.conftest import build_world, free_port
from tests.spaces.conftest import SPACE
from tests.started import Started

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
SCREENSHOTS = Path(__file__).parents[2] / "outputs/screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
with np.load(SPACE / "scenes.npz") as _scenes:
    NUM_SCENES = len(_scenes["tasks"])
SCREEN = ".wm-screen.active canvas, .wm-screen.only canvas"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("space") / "log"
    settings = {"GRADIO_ANALYTICS_ENABLED": "False"}
    started = Started("play", "--mcp", "--port", port, log=log, environment=settings)
    started.wait_for(lambda: answers(url), seconds=300)
    yield url
    started.process.kill()


def answers(url):
    with suppress(OSError):
        urllib.request.urlopen(url).close()
        return True
    return False


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page for one more visitor, and waits until the first frame is there."""
    contexts = []

    def visit(**options):
        context = browser.new_context(viewport=DESKTOP, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(error))
        page.goto(address)
        page.wait_for_selector(f"{SCREEN} >> nth=0")
        return page

    yield visit
    for context in contexts:
        assert not [error for page in context.pages for error in page.errors]
        context.close()


def picture(page):
    return page.eval_on_selector(".wm-screen.active canvas", "canvas => canvas.toDataURL()")


def count(page):
    return int(page.inner_text("#wm-count"))


def wait_for_frame(page, number):
    page.wait_for_function(f"document.getElementById('wm-count').textContent === '{number}'", timeout=20_000)


def press(page, key, frames=1):
    """Press a key until there are so many more frames."""
    target = count(page) + frames
    page.keyboard.down(key)
    page.wait_for_function(f"+document.getElementById('wm-count').textContent >= {target}", timeout=20_000)
    page.keyboard.up(key)
    # A frame that was asked for before the key was let go still comes.
    page.wait_for_selector("#wm-screens[aria-busy=false]")


def open_panels(page):
    for name in ("Scenes", "Settings", "Futures and files"):
        page.click(f"text={name} >> nth=0")
    page.wait_for_selector("#grid", state="visible")


def load_checkpoint(page, name):
    page.click("text=Settings")
    # A field that has only just been shown may miss that it was entered. Then its list, which lies over the button,
    # stays open, and the old name comes back. So the name is entered until it stays.
    for _ in range(10):
        page.fill("#checkpoint input", str(name))
        page.press("#checkpoint input", "Enter")
        with suppress(playwright.TimeoutError):
            page.wait_for_selector("#checkpoint [role=listbox]", state="hidden", timeout=3_000)
            if page.input_value("#checkpoint input") == str(name):
                break
    # The click is known to have been heard.
    with page.expect_request(lambda request: "/queue/join" in request.url and str(name) in (request.post_data or "")):
        page.click("#load")


def test_keys_move_the_picture_and_undo_restores_it_exactly(visit):
    page = visit()
    seen = [picture(page)]
    for key in "dwr":
        press(page, key)
        seen.append(picture(page))
    assert len(set(seen)) == 4
    total = count(page)
    while count(page) > 0:
        page.keyboard.press("Backspace")
        total -= 1
        wait_for_frame(page, total)
    assert picture(page) == seen[0]


def test_a_held_key_repeats_and_the_rate_is_shown(visit):
    page = visit()
    press(page, "ArrowRight", frames=4)
    assert re.fullmatch(r"\d+/s", page.inner_text("#wm-rate"))


def test_a_connection_that_ends_is_told_and_made_again(visit):
    page, routes = visit(), []

    def connect(route):
        routes.append(route)
        route.connect_to_server()

    page.route_web_socket("**/play", connect)
    page.reload()
    page.wait_for_selector(SCREEN)
    press(page, "d")
    before = count(page)
    routes[0].close(reason="it rains")
    page.wait_for_selector("text=The connection ended: it rains. Press a key")
    press(page, "d")
    assert len(routes) == 2
    assert count(page) > before


def test_a_branch_stands_beside_its_line(visit):
    page = visit()
    press(page, "d", frames=2)
    kept = picture(page)
    page.click(".wm-strip canvas >> nth=1")
    page.keyboard.press("b")
    page.wait_for_function("document.querySelectorAll('.wm-screen').length === 2")
    press(page, "a")
    assert page.eval_on_selector(".wm-screen >> nth=0", "s => s.querySelector('canvas').toDataURL()") == kept
    page.click(".wm-screen >> nth=0")
    page.wait_for_function("document.querySelectorAll('.wm-screen')[0].classList.contains('active')")
    page.screenshot(path=str(SCREENSHOTS / "branch.png"))


def test_visitors_do_not_see_each_other(visit):
    one, other = visit(), visit()
    before = picture(other)
    press(one, "d", frames=2)
    assert count(other) == 0
    press(other, "a")
    assert picture(other) != before
    assert count(one) >= 2


def test_it_dreams_and_wakes_up(visit):
    page = visit()
    page.keyboard.press("Enter")
    page.wait_for_function("+document.getElementById('wm-count').textContent >= 3", timeout=30_000)
    page.keyboard.press("Enter")
    page.wait_for_selector("#wm-screens[aria-busy=false]")
    stopped = count(page)
    page.wait_for_timeout(500)
    assert count(page) == stopped


def test_a_title_one_sentence_and_links_say_what_one_sees(visit, address):
    page = visit()
    assert page.inner_text("h1") == "iVideoGPT playground"
    assert "imagined by a world model" in page.inner_text(".wm-header p")
    links = {link.inner_text(): link.get_attribute("href") for link in page.query_selector_all(".wm-header a")}
    assert set(links) == {"model", "paper", "code", "API"}
    assert links["paper"] == "https://arxiv.org/abs/2405.15223"
    assert all(link.startswith("https://") for name, link in links.items() if name != "API")
    with urllib.request.urlopen(f"{address}/{links['API']}") as answer:
        assert {"/reset", "/step", "/rollout"} <= set(json.load(answer)["named_endpoints"])


def test_nothing_is_certain_before_anything_was_predicted(visit):
    page = visit()
    width = "document.getElementById('wm-certainty').getBoundingClientRect().width"
    assert page.evaluate(width) == 0
    press(page, "d")
    page.wait_for_function(f"{width} > 0")


def test_a_bad_upload_is_told(visit, tmp_path):
    page = visit()
    bad = tmp_path / "clip.mp4"
    bad.write_bytes(b"this is no video")
    page.click("text=Scenes")
    with page.expect_file_chooser() as chooser:
        page.click("#upload")
    chooser.value.set_files(str(bad))
    page.wait_for_selector("text=neither an image nor a video", timeout=20_000)


def test_another_checkpoint_is_loaded(visit, tmp_path):
    build_world().save_pretrained(tmp_path / "free")
    page = visit()
    load_checkpoint(page, tmp_path / "free")
    page.wait_for_selector("text=next frame", timeout=20_000)
    assert "gripper" not in page.text_content("#wm-hint")
    page.click("text=Scenes >> nth=0")
    page.wait_for_selector("text=This checkpoint brings no scenes")
    page.click("#wm-pad button")
    wait_for_frame(page, 1)


def test_a_checkpoint_that_is_not_there_is_told(visit, tmp_path):
    page = visit()
    load_checkpoint(page, tmp_path / "absent")
    page.wait_for_selector("text=There is no such folder", timeout=20_000)
    press(page, "d")


def test_the_line_can_be_downloaded(visit, tmp_path):
    page = visit()
    press(page, "d", frames=2)
    press(page, "w")
    page.click("text=Futures and files")
    with page.expect_download() as download:
        page.click("#save-actions")
    assert download.value.suggested_filename == "actions.json"
    download.value.save_as(tmp_path / "actions.json")
    actions = read_actions(tmp_path / "actions.json")
    assert len(actions) == count(page)
    directions = actions[:, :3].tolist()  # beside the gripper's
    num_right = directions.count([1, 0, 0])
    assert num_right >= 2
    assert directions == [[1, 0, 0]] * num_right + [[0, 1, 0]] * (len(actions) - num_right)
    assert len(directions) > num_right
    with page.expect_download() as download:
        page.click("#save-video")
    assert len(read_video(download.value.path())) == 2 + count(page)  # two of context


def check_lies_inside(outer, inner, reach=1):
    """Boxes of elements; a border may reach over by a pixel."""
    assert inner["x"] >= outer["x"] - reach
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + reach


def test_panels_fit_a_phone_when_all_are_open(visit):
    page = visit(color_scheme="dark")
    page.set_viewport_size(PHONE)
    open_panels(page)
    panels = page.locator("#below > .column")
    assert panels.count() == 3
    for panel in panels.all():
        outer = panel.bounding_box()
        assert outer["width"] > 0.8 * PHONE["width"]
        check_lies_inside({"x": 0, "width": PHONE["width"]}, outer)
        for part in panel.locator("button, input, label, img, video").all():
            if part.is_visible():
                check_lies_inside(outer, part.bounding_box())
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.screenshot(path=str(SCREENSHOTS / "phone-open.png"), full_page=True)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_every_picture_of_the_gallery_is_shown_whole(visit, viewport):
    page = visit()
    page.set_viewport_size(viewport)
    page.click("text=Scenes")
    page.wait_for_selector("#scenes img")
    gallery, pictures = page.locator("#scenes").bounding_box(), page.locator("#scenes img").all()
    assert len(pictures) == NUM_SCENES
    for picture in pictures:
        box = picture.bounding_box()
        check_lies_inside(gallery, box, reach=0)
        assert box["y"] + box["height"] <= gallery["y"] + gallery["height"]
        assert box["width"] == pytest.approx(box["height"], abs=1)


def test_there_is_one_typeface(visit):
    page = visit()
    open_panels(page)
    families = page.evaluate("""[...document.querySelectorAll('.wm *, .wm-header *, #below *')]
      .filter(element => [...element.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
      .map(element => getComputedStyle(element).fontFamily)""")
    assert len(families) > 20
    assert len(set(families)) == 1


@pytest.mark.parametrize(("name", "viewport"), [("desktop", DESKTOP), ("phone", PHONE)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_main_loop_needs_no_scrolling(visit, name, viewport, scheme):
    page = visit(color_scheme=scheme)
    page.set_viewport_size(viewport)
    press(page, "d", frames=2)
    for selector in (".wm-screen", "#wm-pad", "#wm-undo", "#wm-strips"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= viewport["height"], selector
        assert box["x"] + box["width"] <= viewport["width"], selector
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}-{scheme}.png"))


def test_python_clients_have_named_endpoints(address):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client, other = Client(address, verbose=False), Client(address, verbose=False)
    _, game, about = client.predict(scene=0, checkpoint="default", api_name="/reset")
    assert [name for name, low, high in about["actions"]] == ["x", "y", "z", "gripper"]
    _, reward = other.predict(game=game, action=[0.0, 1.0, 0.0, 0.0], api_name="/step")  # whoever has the key
    assert isinstance(reward, float)
    sheet, video, rewards = client.predict(scene=0, actions=[[0.0, 1.0, 0.0, 0.0]] * 9, api_name="/rollout")
    assert rewards[0] == pytest.approx(reward, abs=1e-4)
    assert len(rewards) == len(read_video(video)) == 9
    assert read_video(sheet).shape[2:] == (4 * (2 * 64 + 2), 4 * (8 * 64 + 7 * 2))
    for name in (str(Path(__file__).parent), "/absent"):
        with pytest.raises(AppError, match="Folders and servers are for visitors of this machine"):
            client.predict(scene=0, checkpoint=name, api_name="/reset")
    with pytest.raises(AppError, match=f"There are the scenes 0 to {NUM_SCENES - 1}, not {NUM_SCENES}"):
        client.predict(scene=NUM_SCENES, api_name="/reset")


def test_the_example_for_python_clients_runs(address):
    (code,) = re.findall(r"```python\n(.*?)```", (SPACE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "user/this-space" in code
    names = {}
    exec(code.replace("user/this-space", address), names)
    assert Path(names["picture"]).is_file()
    assert isinstance(names["reward"], float)
    assert len(read_video(names["video"])) == len(names["rewards"]) == 8


def test_actions_that_are_not_there_are_not_saved(visit, tmp_path):
    page, downloads = visit(), []
    page.on("download", lambda download: downloads.append(download))
    page.click("text=Futures and files")
    page.click("#save-actions")
    page.wait_for_selector("text=This line has no actions yet", timeout=20_000)
    build_world().save_pretrained(tmp_path / "free")
    load_checkpoint(page, tmp_path / "free")
    page.wait_for_selector("text=next frame", timeout=20_000)
    page.click("#wm-pad button")
    wait_for_frame(page, 1)
    page.click("#save-actions")
    page.wait_for_selector("text=This checkpoint takes no actions, so", timeout=20_000)
    assert not downloads


def test_agents_play_by_documented_tools(address):
    """By the Model Context Protocol."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    action = [0.0, 1.0, 0.0, 0.0]

    async def play():
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            answers = [await session.call_tool("reset", {"scene": 0})]
            key = answers[0].content[2].text
            answers.append(await session.call_tool("step", {"game": key, "action": action}))
            answers.append(await session.call_tool("rollout", {"scene": 0, "actions": [action] * 2}))
            return tools, answers, await session.call_tool("step", {"game": "another", "action": action})

    with ThreadPoolExecutor(1) as threads:  # Playwright keeps this thread's event loop
        tools, answers, refusal = threads.submit(asyncio.run, play()).result()
    assert {tool.name for tool in tools} == {"reset", "step", "rollout"}
    for tool in tools:
        assert tool.description
        assert all("type" in content and content["description"] for content in tool.inputSchema["properties"].values())
    sizes = []
    for answer in answers:
        assert not answer.isError
        pictures = [content.data for content in answer.content if content.type == "image"]
        sizes += [Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures]
    assert sizes == [(256, 256), (256, 256), (4 * (2 * 64 + 2), 4 * 64)]
    assert refusal.isError
    assert "has expired" in refusal.content[0].text
