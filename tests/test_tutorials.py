"""The tutorials run as they are read, and their notebooks are the pages."""

import json

import pytest
from PIL import Image

from scripts import tutorials


@pytest.mark.parametrize("page", tutorials.pages(), ids=lambda page: page.stem)
def test_a_tutorial_runs_and_makes_the_picture_that_it_shows(page, tmp_path):
    for package in ("accelerate", "datasets", "fastapi", "scipy", "stable_baselines3"):
        pytest.importorskip(package)
    ended = tutorials.run(page, tmp_path)
    assert ended.returncode == 0, ended.stderr
    picture = f"{page.stem}.png"
    assert f"]({picture})\n" in page.read_text(encoding="utf-8")
    assert Image.open(tmp_path / picture).size == Image.open(page.parent / picture).size


@pytest.mark.parametrize("name", tutorials.NOTEBOOKS)
def test_a_notebook_is_its_page_and_was_run(name):
    page = tutorials.FOLDER / f"{name}.md"
    cells = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    fences = {"code": ("```python\n", "\n```"), "markdown": ("", "")}
    text = "\n".join("".join(cell["source"]).join(fences[cell["cell_type"]]) for cell in cells)
    text = text.replace("```python\n%%bash\n", "```bash\n")
    assert text.split() == tutorials.text_of_notebook(page).split()
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
