"""Characters that word processors and web pages put in the place of those that setkey reads."""

_MEANT = {
    '"': "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02\u2018\u2019\u201a\u201b\u00b4",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d",
    ";": "\u037e\uff1b",
    "/": "\u2044\u2215\uff0f",
    "[": "\uff3b",
    "]": "\uff3d",
    "": "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff",
}
_BY_CHARACTER = {ord(one): meant for meant, those in _MEANT.items() for one in those}


def hint(text: str) -> str:
    """What to write for the first such character of a text; '' where there is none."""
    for one in text:
        meant = _BY_CHARACTER.get(ord(one))
        if meant is not None:
            name = f"U+{ord(one):04X}"
            return f"{one} is {name}: write {meant}" if meant else f"remove the invisible {name}"
    if text.startswith(("'", "`")):
        return 'a key stands in double quotes: write "'
    if text == "\\":
        return "a statement goes on to its ; without a \\ at the line's end"
    return ""
