"""Headlines of made ads, whose words tell the topic; and what a teacher would write about them."""

import json
from pathlib import Path

import numpy as np

from msd.contract.files import write_text_atomic
from msd.dataset.load import Dataset
from msd.teachers.knowledge import TeachRecord

OFFERS = {
    "travel": ("cheap flights", "beach hotels", "city breaks", "rail passes", "mountain huts", "island ferries"),
    "fitness": ("running shoes", "yoga classes", "home rowing", "protein bars", "cycling gear", "swim lessons"),
    "finance": ("savings accounts", "car insurance", "index funds", "mortgage advice", "credit cards", "tax software"),
    "cooking": ("recipe boxes", "knife sets", "spice tins", "pasta courses", "slow cookers", "bread flour"),
    "games": ("puzzle games", "racing games", "board games", "chess lessons", "strategy games", "dice sets"),
}
_CALLS = ("Try {} today", "Save on {}", "New: {} near you", "The best {} of the year", "{} made easy", "Half-price {}")
_TOPICS = tuple(OFFERS)


def headline(topic: int, rng: np.random.Generator) -> str:
    """Return a headline of a topic, 0 to 4, which names one of its offers."""
    offers = OFFERS[_TOPICS[topic]]
    text = _CALLS[rng.integers(len(_CALLS))].format(offers[rng.integers(len(offers))])
    return text[0].upper() + text[1:]


def write_words(data: Dataset, folder: Path) -> None:
    """Write the knowledge of a log's ads: two sentences that a teacher would conclude from the headline alone."""
    items = [
        {
            "id": item,
            "known": False,
            "explicit": f"An ad for {offer}, a matter of {topic}.",
            "implicit": f"For people who like {topic} and may want {offer}.",
            "tags": [topic],
        }
        for item, text in data.items.select("item_id", "title").iter_rows()
        for topic, offers in OFFERS.items()
        for offer in offers
        if offer in text.lower()
    ]
    write_text_atomic(folder / "items.jsonl", "".join(f"{json.dumps(item)}\n" for item in items))
    write_text_atomic(folder / "users.jsonl", "")
    record = TeachRecord(teacher="a sentence", prompt_version="1", dataset=data.config.name, items=len(items), users=0)
    write_text_atomic(folder / "teach.json", record.model_dump_json(indent=2) + "\n")
