"""The report on paper: one list of blocks, set as a self-contained web page or as a PDF with matplotlib. Knows no session.

Blocks are tuples: `("title" | "lead" | "heading" | "subheading" | "text" | "code", text)`, `("table", heads, rows)`,
`("pictures", [(path, caption)])`, `("dots", title, names, [{"value", "low", "high"}])` and `("folded", title, code)`, which a reader opens.
"""

from __future__ import annotations

import base64
import unicodedata
from html import escape
from pathlib import Path

from . import charts

STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;color:#1a1c22;max-width:900px;margin:48px auto;padding:0 24px}h1{font-size:26px}"
    "h2{font-size:19px;margin-top:36px}h3{font-size:16px}.lead{font-size:18px}.scroll{overflow-x:auto}"
    "table{border-collapse:collapse;width:100%;font-size:14px}td,th{border-bottom:1px solid #ddd;padding:6px 10px 6px 0;text-align:left;"
    "vertical-align:top;white-space:pre-line}th{font-weight:600}img{width:84px;height:84px;object-fit:contain;border-radius:8px}"
    "figure{display:inline-block;margin:4px 8px 8px 0;font-size:12px;width:104px;vertical-align:top}"
    "figcaption{color:#555;white-space:pre-line}svg{max-width:560px}pre{white-space:pre-wrap;font-size:12px}details{margin-top:36px}summary{font-size:19px;font-weight:600;cursor:pointer}.axis{stroke:#aaa}"
    "svg text{font-size:13px;fill:currentColor}"
    "@media(prefers-color-scheme:dark){body{background:#121318;color:#edecea}td,th{border-color:#333}figcaption{color:#aaa}}"
)
TAGS = {"title": "h1", "heading": "h2", "subheading": "h3", "text": "p", "code": "pre"}

PAGE, MARGIN = (595.0, 842.0), 50.0  # A4 and its margins, in points
SIZES = {"title": 20.0, "lead": 12.5, "heading": 14.0, "subheading": 10.5, "text": 9.5, "code": 6.5}
ABOVE = {"title": 0.0, "lead": 6.0, "heading": 20.0, "subheading": 10.0, "text": 4.0, "code": 2.0}
JAPANESE = ("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic", "Hiragino Sans", "Yu Gothic", "MS Gothic")


# ------------------------------------------------------------------------------------------------ web page


def html(blocks: list[tuple], language: str) -> str:
    """One HTML file: images inside, no script, nothing fetched from anywhere."""
    body = "".join(_html(*block) for block in blocks)
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>ScoreFusion Studio</title><style>{STYLE}</style>{body}</html>"
    )


def _html(kind: str, *content) -> str:
    if kind == "table":
        heads, rows = content
        head = "".join(f"<th>{escape(str(h))}</th>" for h in heads)
        body = "".join("<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
        return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
    if kind == "pictures":
        return "".join(_figure(path, caption) for path, caption in content[0])
    if kind == "dots":
        title, names, found = content
        return f"<h3>{escape(title)}</h3>{charts.dots(names, found, label=title)}"
    if kind == "folded":
        return f"<details><summary>{escape(content[0])}</summary><pre>{escape(content[1])}</pre></details>"
    if kind == "lead":
        return f'<p class="lead">{escape(content[0])}</p>'
    return f"<{TAGS[kind]}>{escape(content[0])}</{TAGS[kind]}>"


def _figure(path: str, caption: str) -> str:
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'


# ------------------------------------------------------------------------------------------------ PDF


def pdf(blocks: list[tuple], path: Path) -> bool:
    """Write the blocks as A4 pages. False when this machine has no font for some of their characters, which then show as boxes."""
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.backends.backend_pdf import PdfPages

    here = {font.name for font in font_manager.fontManager.ttflist}
    family = ["DejaVu Sans", *(name for name in JAPANESE if name in here)]
    with matplotlib.rc_context({"font.family": family, "pdf.fonttype": 3}):
        with PdfPages(path, metadata={"Title": "ScoreFusion Studio", "Creator": "ScoreFusion Studio"}) as file:
            sheet = Sheet(file)
            for kind, *content in blocks:
                if kind in SIZES:
                    sheet.write(*content, kind)
                else:
                    {"table": sheet.table, "pictures": sheet.pictures, "dots": sheet.dots, "folded": sheet.folded}[kind](*content)
            sheet.turn(last=True)
    wide = any(unicodedata.east_asian_width(c) in "WF" for block in blocks for c in str(block[1:]))
    return not wide or len(family) > 1


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines no wider than `width` points: broken between words, and anywhere between East Asian characters."""
    lines = []
    for part in text.split("\n"):
        line, used = "", 0.0
        for piece in _pieces(part):
            wide = _width(piece, size)
            if line and used + wide > width:
                lines.append(line.rstrip())
                line, used, piece = "", 0.0, piece.lstrip()
                wide = _width(piece, size)
            while wide > width:  # one word longer than a line
                cut = max(1, int(len(piece) * width / wide))
                lines.append(piece[:cut])
                piece = piece[cut:]
                wide = _width(piece, size)
            line, used = line + piece, used + wide
        lines.append(line.rstrip())
    return lines


def _pieces(text: str) -> list[str]:
    pieces, word = [], ""
    for c in text:
        if unicodedata.east_asian_width(c) in "WF":
            pieces, word = [*pieces, word, c], ""
        elif c == " ":
            pieces, word = [*pieces, word + c], ""
        else:
            word += c
    return [p for p in [*pieces, word] if p]


def _width(text: str, size: float) -> float:
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text)


class Sheet:
    """Pages filled from top to bottom; `y` is how far down the present one is full, in points."""

    def __init__(self, file):
        self.file, self.figure, self.y = file, None, 0.0
        self.turn()

    def turn(self, last: bool = False) -> None:
        """Put the present page away and, unless it was the last, begin another."""
        from matplotlib.figure import Figure

        if self.figure is not None:
            self.file.savefig(self.figure)
        self.figure, self.y = None if last else Figure(figsize=(PAGE[0] / 72, PAGE[1] / 72)), MARGIN

    def need(self, height: float) -> None:
        if self.y + height > PAGE[1] - MARGIN:
            self.turn()

    def line(self, text: str, x: float, y: float, size: float, **style) -> None:
        self.figure.text(x / PAGE[0], 1 - y / PAGE[1], text, fontsize=size, va="top", parse_math=False, **style)

    def write(self, text: str, kind: str) -> None:
        """A paragraph or a heading; a heading stays with at least two lines of what follows."""
        size, style = SIZES[kind], {"weight": "bold"} if kind in ("title", "heading", "subheading") else {}
        self.y += ABOVE[kind]
        self.need(size * (5 if style else 1.5))
        for part in wrapped(text, PAGE[0] - 2 * MARGIN, size):
            self.need(size * 1.45)
            self.line(part, MARGIN, self.y, size, **style)
            self.y += size * 1.45

    def folded(self, title: str, code: str) -> None:
        """Paper cannot be opened: the code in small type under its title."""
        self.write(title, "heading")
        self.write(code, "code")

    def table(self, heads, rows) -> None:
        """Columns as wide as what they hold needs, cells wrapped within them; the head in bold."""
        from matplotlib.lines import Line2D

        size = 8.0 if len(heads) < 7 else 6.0
        longest = [max(max(_width(line, size) for line in str(row[n]).split("\n")) for row in [heads, *rows]) for n in range(len(heads))]
        room = PAGE[0] - 2 * MARGIN
        widths = [room * w / sum(longest) for w in [max(w, 24.0) + 6 for w in longest]] if sum(longest) else []
        widths = [w * room / sum(widths) for w in widths]
        self.y += 6
        for number, row in enumerate([heads, *rows]):
            cells = [wrapped(str(v), w - 4, size) for v, w in zip(row, widths)]
            height = max(len(c) for c in cells) * size * 1.3 + 5
            self.need(height)
            x = MARGIN
            for cell, width in zip(cells, widths):
                for k, part in enumerate(cell):
                    self.line(part, x, self.y + k * size * 1.3, size, weight="normal" if number else "bold")
                x += width
            self.y += height
            at = 1 - (self.y - 3) / PAGE[1]
            self.figure.add_artist(Line2D([MARGIN / PAGE[0], 1 - MARGIN / PAGE[0]], [at, at], color="#cccccc", linewidth=0.5))

    def pictures(self, items, across: int = 8) -> None:
        """A grid of pictures with captions."""
        from PIL import Image

        side = (PAGE[0] - 2 * MARGIN) / across
        for start in range(0, len(items), across):
            row = items[start : start + across]
            captions = [wrapped(caption, side - 6, 5.5)[:4] for _, caption in row]
            height = side - 6 + 4 + max(len(c) for c in captions) * 7 + 6
            self.need(height)
            for n, ((path, _), caption) in enumerate(zip(row, captions)):
                x = MARGIN + n * side
                box = [x / PAGE[0], 1 - (self.y + side - 6) / PAGE[1], (side - 6) / PAGE[0], (side - 6) / PAGE[1]]
                axes = self.figure.add_axes(box)
                with Image.open(path) as image:
                    image = image.convert("RGB")
                    image.thumbnail((256, 256))
                axes.imshow(image)
                axes.axis("off")
                for k, part in enumerate(caption):
                    self.line(part, x, self.y + side - 4 + 7 * k, 5.5, color="#555555")
            self.y += height

    def dots(self, title: str, names, found) -> None:
        """Values with intervals, one row each."""
        height = 26.0 + 15 * len(names)
        self.y += 8
        self.need(height + 12)
        self.line(title, MARGIN, self.y, SIZES["subheading"], weight="bold")
        box = [(MARGIN + 150) / PAGE[0], 1 - (self.y + height) / PAGE[1], 300 / PAGE[0], (height - 18) / PAGE[1]]
        axes = self.figure.add_axes(box)
        for n, one in enumerate(found):
            ends = [one["value"] if v is None else v for v in (one["low"], one["high"])]
            axes.plot(ends, [-n, -n], color=charts.colour(n), linewidth=1.6)
            axes.plot([one["value"]], [-n], marker="osD^v"[n % 5], color=charts.colour(n), markersize=4)
        axes.axvline(0, color="#999999", linewidth=0.6)
        axes.set_ylim(0.6 - len(names), 0.6)
        axes.set_yticks([-n for n in range(len(names))], names, fontsize=7)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        self.y += height + 14
