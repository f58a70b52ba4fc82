"""The diary's index leads to every entry, and its links lead to entries that are there."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "validation" / "DIARY.md").read_text(encoding="utf-8")
#: Headings that are about the diary itself.
FRONT = ["diary-of-mispredictions", "index", "open-questions"]


def anchors(text):
    """Return the anchors that GitHub gives to headings: repeated ones are numbered."""
    seen = Counter()
    found = []
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(text):
    return re.findall(r"\]\(#([^)\s]+)\)", text)


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_anchors_are_those_of_github():
    assert anchors("# P4: one `reach`, 88 pJ\n## What is left\n### What is left") == [
        "p4-one-reach-88-pj",
        "what-is-left",
        "what-is-left-1",
    ]


def test_links_within_the_diary_lead_to_headings():
    assert set(links(TEXT)) <= set(anchors(TEXT))


def test_the_index_has_every_entry_once():
    assert sorted([*FRONT, *links(section("Index"))]) == sorted(anchors(TEXT))


def test_open_questions_have_an_entry():
    for question in section("Open questions").split("\n- ")[1:]:
        assert links(question), question


@pytest.mark.parametrize("page", ["validation/ACCURACY.md", "validation/accuracy_page.py"])
def test_entries_named_elsewhere_exist(page):
    named = re.findall(r'DIARY\.md, "([^"]+)"', (ROOT / page).read_text(encoding="utf-8"))
    assert named
    assert set(named) <= set(re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#\s]+)\)", TEXT))))
def test_files_named_in_the_diary_exist(target):
    assert (ROOT / "validation" / target).exists()
