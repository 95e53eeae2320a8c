"""What a reader sees of a page's HTML."""

import re
from html import unescape


def text_of(markup):
    text = unescape(re.sub("<.*?>", " ", markup, flags=re.DOTALL))
    for char in "\N{MINUS SIGN}\N{EN DASH}":
        text = text.replace(char, "-")
    return " ".join(text.split())


def section(html, anchor):
    return re.search(rf'<section id="{anchor}">(.*?)</section>', html, re.DOTALL)[1]


def open_items(html):
    found = re.search(r'<ul class="open-items">(.*?)</ul>', html, re.DOTALL)
    return [text_of(item) for item in re.findall("<li>(.*?)</li>", found[1], re.DOTALL)]
