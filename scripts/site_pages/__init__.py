"""The pages of the documentation site, made of files of this repository: `python -m scripts.site_pages FOLDER`."""
