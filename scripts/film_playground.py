"""Film a short game in the playground, in headless Chromium: docs/playground.gif and docs/playground.png.

ivideogpt play --port 7861 &
python scripts/film_playground.py http://127.0.0.1:7861 docs
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

VIEW = {"width": 1280, "height": 620}
GIF_WIDTH = 640
KEYS, OTHER_KEYS = "wwwddd", "frrraa"  # of the first line, and of another one that leaves it after two frames


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    pictures = []
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(viewport=VIEW)
        page.goto(args.address)
        page.wait_for_selector(".wm-screen canvas")

        def press(keys):
            for key in keys:
                shown = int(page.inner_text("#wm-count"))
                page.keyboard.press(key)
                page.wait_for_function(f"+document.getElementById('wm-count').textContent > {shown}")
                page.wait_for_timeout(200)
                pictures.append(page.screenshot())

        press(KEYS)
        page.click(".wm-strip canvas >> nth=2")
        page.keyboard.press("b")
        page.wait_for_function("document.querySelectorAll('.wm-screen').length === 2")
        press(OTHER_KEYS)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "playground.png").write_bytes(pictures[-1])
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    height = GIF_WIDTH * VIEW["height"] // VIEW["width"]
    small = [image.resize((GIF_WIDTH, height), Image.Resampling.LANCZOS).quantize(128) for image in images]
    small[0].save(args.folder / "playground.gif", save_all=True, append_images=small[1:], duration=400, loop=0)


if __name__ == "__main__":
    main()
