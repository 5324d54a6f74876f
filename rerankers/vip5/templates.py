"""The prompts of VIP5 in our own words, with the slots and the answers of the 29 of the paper (arXiv 2305.14302).

    A sequential   history -> next item, or whether one item comes next
    B direct       no history: whether the user wants one item, or which of a list
    C explanation  of a review: a sentence, with or without its feature word and rating
    D rerank       ours, of no paper: history and candidates -> which of the candidates comes next

As in the reference the last template of A, B and C is never trained on, so that an unseen wording can be tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FAMILIES = {"A": "sequential", "B": "direct", "C": "explanation", "D": "rerank"}
MENTIONS = ("history", "candidates", "one", "item", "title")  # slots of items, each with its pictures


@dataclass(frozen=True)
class Template:
    """Slots: {user} user_12, {name}, {history} and {candidates} lists of numbers, {one} a number, {item} item_34,
    {title}, {rating} stars, {headline} and {feature} of a review. All items are followed by their pictures."""

    name: str
    text: str
    answer: str  # item | yes_no | explanation | rating_explanation

    @property
    def family(self) -> str:
        return FAMILIES[self.name[0]]

    @property
    def slots(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.text)

    @property
    def trained(self) -> bool:
        return self.name not in ("A-9", "B-8", "C-12")


def _numbered(letter: str, templates: list[tuple[str, str]]) -> dict[str, Template]:
    names = [f"{letter}-{number}" for number in range(1, len(templates) + 1)]
    return {name: Template(name, text, answer) for name, (text, answer) in zip(names, templates, strict=True)}


TEMPLATES = {
    **_numbered(
        "A",
        [
            ("{user} took these items, oldest first: {history}. Predict the next item:", "item"),
            ("These were taken by {user} in order: {history}. Which item should be recommended now?", "item"),
            ("After the items {history} what will {user} take next?", "item"),
            ("{name} took these items, oldest first: {history}. Predict the next item:", "item"),
            ("These were taken by {name} in order: {history}. Which item should be recommended now?", "item"),
            ("Here is what {name} chose so far: {history}. Name the item that follows:", "item"),
            ("Is {one} likely to be bought next by {user}, who took {history} so far?", "yes_no"),
            ("Is {one} likely to be bought next by {name}, who took {history} so far?", "yes_no"),
            ("After the items {history} what will {name} take next?", "item"),
        ],
    ),
    **_numbered(
        "B",
        [
            ("Will {user} be interested in {item}?", "yes_no"),
            ("Should {item} be shown to {name}?", "yes_no"),
            ("Would {name} like {title}?", "yes_no"),
            ("Is {title} a good choice for {user}?", "yes_no"),
            ("Which of these items suits {name} best? {candidates}", "item"),
            ("Choose one item for {name} among {candidates}.", "item"),
            ("Which of these items suits {user} best? {candidates}", "item"),
            ("Choose one item for {user} among {candidates}.", "item"),
        ],
    ),
    **_numbered(
        "C",
        [
            ("Explain to {user} why {title} was chosen:", "explanation"),
            ('Under the headline "{headline}" {user} wrote about {item}:', "explanation"),
            ("{user} gave {rating} stars to {title}. Explain why:", "explanation"),
            ("Explain to {name} why {title} was chosen:", "explanation"),
            ('Under the headline "{headline}" {name} wrote about {title}:', "explanation"),
            ("{name} gave {rating} stars to {item}. Explain why:", "explanation"),
            ("Think of {feature}: what rating does {user} give {item}, and why?", "rating_explanation"),
            ("Think of {feature}: what rating does {name} give {item}, and why?", "rating_explanation"),
            ("What does {user} say of the {feature} of {title}?", "explanation"),
            ("What does {name} say of the {feature} of {title}?", "explanation"),
            ("{user} gave {rating} stars to {item} for its {feature}. Explain why:", "explanation"),
            ("{name} gave {rating} stars to {item} for its {feature}. Explain why:", "explanation"),
        ],
    ),
    **_numbered(
        "D",
        [
            ("{user} took these items, oldest first: {history}. Which comes next? {candidates}", "item"),
            ("After the items {history} which one will {name} take? Choose among {candidates}.", "item"),
        ],
    ),
}
