"""What mkdocs-llmstxt does to a page before it makes Markdown of it for llms-full.txt."""

from bs4 import BeautifulSoup


def preprocess(soup: BeautifulSoup, output: str) -> None:
    """Escape bars in cells of tables, which would end the cells there.

    Args:
        soup: content of the page.
        output: path of the Markdown file.
    """
    for cell in soup.find_all(["td", "th"]):
        for text in cell.find_all(string=lambda text: "|" in text):
            text.replace_with(text.replace("|", "\\|"))
