"""Pages as a reader without a browser sees them: tags that nest, ids, links, pictures, headings and text."""

import html.parser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loaded, self.images, self.words = [], [], [], [], [], []
        self.headings, self.tags = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    @classmethod
    def read(cls, path):
        return cls(Path(path).read_text(encoding="utf-8"))

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.links += [values["href"]] if "href" in values else []
        else:
            self.loaded += [values[name] for name in ("href", "src") if name in values]
        self.images += [values] if tag == "img" else []
        self.headings += [int(tag[1])] if tag in ("h1", "h2", "h3", "h4") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


def pages_of(folder):
    """Every page of a report, by its path below the folder."""
    folder = Path(folder)
    paths = [folder / "index.html", *sorted((folder / "pages").glob("*.html"))]
    return {str(path.relative_to(folder)): Page.read(path) for path in paths}


def broken_links(folder, pages):
    """(page, link) of every link or loaded file that leads nowhere; addresses of the web are only allowed as links."""
    found = []
    for name, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if link == "data:," or (parts.scheme == "https" and link in page.links):
                continue
            path = (Path(folder) / name).parent / unquote(parts.path) if parts.path else Path(folder) / name
            inside = path.resolve().is_relative_to(Path(folder).resolve())
            if parts.scheme or not inside or not path.is_file():
                found.append((name, link))
            elif parts.fragment:
                target = str(path.resolve().relative_to(Path(folder).resolve()))
                if target not in pages or unquote(parts.fragment) not in pages[target].ids:
                    found.append((name, link))
    return found
