"""The site: its pages are complete, and its links lead somewhere. `make docs` builds it."""

import inspect
import posixpath
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import ivideogpt_hf
from ivideogpt_hf.cli.config import subcommands
from ivideogpt_hf.cli.main import build_parser
from ivideogpt_hf.serving import messages
from ivideogpt_hf.training import arguments
from scripts import check_prose
from scripts.site_pages import packages, staging

pytest.importorskip("fastapi")
ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?P<path>[^)\s#:]*)(?:#(?P<anchor>[^)\s]*))?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of pages."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    staging.stage(folder)
    return folder


def anchors_of(file):
    """The anchors of a page's headings, as Python-Markdown makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


def test_every_page_has_its_place_and_every_place_a_page(site):
    pages = {file.relative_to(site).as_posix() for file in site.rglob("*.md")}
    places = staging.pages_in_order()
    assert set(places) == pages
    assert len(places) == len(pages)


def test_links_lead_to_pages_and_headings(site):
    broken = []
    for file in site.rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`]*`", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for match in LINK.finditer(text):
            target = Path(posixpath.normpath(file.parent / match["path"])) if match["path"] else file
            if not target.is_file() or (match["anchor"] and match["anchor"] not in anchors_of(target)):
                broken.append((file.relative_to(site).as_posix(), match[0]))
    assert not broken


def test_a_link_to_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"docs/index.md links to nowhere.md, which is not there"):
        staging.with_links_of_the_site("[x](nowhere.md)", "docs/index.md", "index.md", None)


def test_links_follow_a_file_to_its_page():
    def page(text, source):
        return staging.with_links_of_the_site(text, "configs/rl/README.md", "experiments/rl.md", source)

    assert page("[x](../README.md#how-it-works)", None) == "[x](index.md#how-it-works)"
    assert page("[x](../../docs/install.md)", None) == "[x](../install.md)"
    assert page("[x](run.sh)", None) == "x"
    assert page("[x](run.sh)", "https://example.org/a/b") == "[x](https://example.org/a/b/blob/HEAD/configs/rl/run.sh)"


def test_notebooks_open_in_colab_as_soon_as_the_repository_has_an_address():
    def links(source):
        return staging.links_of_notebook("tutorials/own_videos.md", source)

    assert "not set yet" in links(None)
    assert "not set yet" in links("https://example.org/a/b")
    address = "https://colab.research.google.com/github/a/b/blob/main/docs/tutorials/own_videos.ipynb"
    assert f"[Open in Colab]({address})" in links("https://github.com/a/b")


def test_marks_of_the_tests_are_not_shown(site):
    assert "<!-- not run" in (ROOT / "docs/guides/lora.md").read_text(encoding="utf-8")
    assert not [file for file in site.rglob("*.md") if "<!--" in file.read_text(encoding="utf-8")]


def test_every_public_name_is_in_the_reference(site):
    text = "".join(file.read_text(encoding="utf-8") for file in (site / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: \S+\.(\w+)$", text, re.MULTILINE)) | set(
        re.findall(r"^## (\w+)$", text, re.MULTILINE)
    )
    assert set(ivideogpt_hf.__all__) <= shown


def test_every_option_of_every_command_is_in_the_reference(site):
    text = (site / "reference/command_line.md").read_text(encoding="utf-8")
    for name, command in subcommands(build_parser()).items():
        section = re.search(rf"^## ivideogpt {name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
        for action in command._actions:
            if action.help != "==SUPPRESS==" and action.dest != "help":
                assert f"`{(action.option_strings or [action.metavar or action.dest])[0]}" in section, (
                    name,
                    action.dest,
                )


def test_every_argument_of_a_training_is_in_the_reference(site):
    text = (site / "reference/training_arguments.md").read_text(encoding="utf-8")
    assert "| `num_frames` | int | `16` | frames of a clip |" in text
    assert "| `output_dir` | str | required |" in text
    for name, kind in inspect.getmembers(arguments, inspect.isclass):
        if name.endswith("Arguments"):
            section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
            assert all(f"| `{field.name}` |" in section for field in fields(kind)), name


def test_the_server_is_in_the_reference(site):
    text = (site / "reference/serving_messages.md").read_text(encoding="utf-8")
    assert "| `POST /v1/sessions/{session}/rollout` |" in text
    assert "### RolloutCall" in text
    assert all(f"| `{name}` |" in text for name in messages.RolloutCall.model_fields)


def test_formats_are_in_the_reference(site):
    assert "| `frames.<camera>` | list of Image |" in (site / "reference/episode_schema.md").read_text(encoding="utf-8")
    assert "    model_index.json, config.json" in (site / "reference/checkpoint_layouts.md").read_text(encoding="utf-8")


def test_every_extra_says_what_it_is_for():
    assert packages.PURPOSES.keys() == packages.project()["optional-dependencies"].keys()


def test_results_are_those_of_the_file(site):
    text = (site / "results/embedded_model.md").read_text(encoding="utf-8")
    assert "| PSNR of predicted frame | 1 | 2 | 3 | 5 | 7 | 10 | mean |" in text
    metrics = (ROOT / "src/ivideogpt_hf/embedded/default/metrics.json").read_text(encoding="utf-8")
    first = re.search(r'"per_step".*?"psnr": \[\s*([\d.]+)', metrics, re.DOTALL)[1]
    assert f"| the model | {float(first):.1f} |" in text


def test_nothing_is_fetched_from_elsewhere():
    """Neither fonts nor scripts; the pages are read without network."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    assert "https://" not in settings
    assert "//" not in (ROOT / "docs/site.css").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is used in order to predict.", "'in order to': write 'to'"),
        ("One thing: another; a third.", "fragments between colons and semicolons"),
        (f"It is {'very ' * 40}long.", "a sentence of 43 words, more than 32"),
    ],
)
def test_prose_is_checked(text, found):
    (finding,) = check_prose.our_findings(check_prose.prose_of(f"# Title\n\nFine so far.\n\n{text}\n"))
    assert finding.line == 5
    assert found in finding.text


@pytest.mark.parametrize("command", sorted(subcommands(build_parser())))
def test_help_is_prose_of_the_same_kind(command):
    parser = subcommands(build_parser())[command]
    shown = [action.help for action in parser._actions if action.help not in (None, "==SUPPRESS==")]
    for text in [parser.description or "", *shown]:
        prose = re.sub(r" \(default: .*\)", "", text)
        assert not list(check_prose.our_findings(check_prose.prose_of(prose))), text


def test_code_is_no_prose():
    text = "# Title\n\n```python\nin order to: x; y: z\n```\n\n| a: b; c: d |\n\nUse `in order to`.\n"
    assert not list(check_prose.our_findings(check_prose.prose_of(text)))


def test_workflows_run_what_is_there():
    workflows = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    assert ".ci/run" in runs
    assert "make docs" in runs
    assert re.search(r"^docs: ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (upload,) = (step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", ""))
    assert f"site_dir: {upload}\n" in (ROOT / "mkdocs.yml").read_text()


def test_hooks_fetch_nothing():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert {hook["language"] for repo in repos for hook in repo["hooks"]} == {"system"}


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_forms_of_issues_have_what_github_asks_for(form):
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    ids = [field["id"] for field in content["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in content["body"])


def test_bars_in_cells_do_not_end_them_for_language_models():
    bs4 = pytest.importorskip("bs4")
    from scripts.site_pages import for_language_models

    soup = bs4.BeautifulSoup("<p>a | b</p><table><tr><td>no | <code>x | y</code></td></tr></table>", "html.parser")
    for_language_models.preprocess(soup, "page.md")
    assert soup.p.text == "a | b"
    assert soup.td.text == "no \\| x \\| y"


def test_a_local_build_names_no_address():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert 'base_url: !ENV [SITE_URL, "/"]' in settings


def test_examples_of_docstrings_are_shown_as_code(tmp_path):
    griffe = pytest.importorskip("griffe")
    (tmp_path / "module.py").write_text(
        'class A:\n    """Text.\n\n    Example:\n        >>> 1 + 1\n        2\n    """\n'
    )
    extensions = griffe.load_extensions(str(ROOT / "scripts/site_pages/docstring_examples.py"))
    module = griffe.load("module", search_paths=[tmp_path], extensions=extensions)
    assert module["A"].docstring.parse("google")[-1].kind is griffe.DocstringSectionKind.examples
