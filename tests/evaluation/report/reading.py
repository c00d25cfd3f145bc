"""A report as its reader's browser takes it apart."""

import html.parser
import json
import re

_VOID = {"meta", "link", "br", "img", "input", "hr", "source"}


class Page(html.parser.HTMLParser):
  """The elements of a page in order, with their text; fails where one is not closed.

  Attributes:
    elements: [tag, attributes, text of it and of what is inside].
  """

  def __init__(self, content):
    super().__init__(convert_charrefs=True)
    self.content, self.elements, self._open = content, [], []
    self.feed(content)
    self.close()
    assert not self._open, f"not closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.elements.append([tag, dict(attrs), ""])
    if tag not in _VOID:
      self._open.append(self.elements[-1])

  def handle_startendtag(self, tag, attrs):
    self.elements.append([tag, dict(attrs), ""])

  def handle_endtag(self, tag):
    assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1][:2] if self._open else 'nothing'}"
    self._open.pop()

  def handle_data(self, data):
    for element in self._open:
      element[2] += data

  def all(self, tag, kind=None):
    """(attributes, text) of elements, of one class if `kind` is given."""
    return [(attributes, text) for name, attributes, text in self.elements
            if name == tag and (kind is None or kind in (attributes.get("class") or "").split())]

  def section(self, name):
    """The part of the page with that id, as a page."""
    return Page(re.search(rf'<section id="{name}">.*?</section>', self.content, re.DOTALL)[0])

  def data(self, name):
    """The JSON of a data block."""
    block = rf'<script type="application/json" id="{name}">(.*?)</script>'
    return json.loads(re.search(block, self.content, re.DOTALL)[1])

  def tables(self, kind):
    """Tables of a class: each a list of rows, each a list of the texts of its cells."""
    tables = []
    for content in re.findall(rf'<table class="{kind}">(.*?)</table>', self.content, re.DOTALL):
      rows = re.findall(r"<tr>(.*?)</tr>", content, re.DOTALL)
      cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
      tables.append([[_text(cell) for cell in row] for row in cells])
    return tables


def _text(content):
  page = Page(f"<p>{re.sub('<small>', ' | ', content).replace('</small>', '')}</p>")
  return page.elements[0][2].strip()
