"""A copy of NeMig's repository with the form of its files and invented content: the first position is clicked most."""

import bz2
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

NEWS, PEOPLE, LISTS, LENGTH = 60, 120, 5, 6
_RATES = (0.4, 0.1, 0.1, 0.1, 0.1, 0.2)  # of a click, by position


def write_copy(folder: Path, language: str = "en", lines: Mapping[str, list[str]] = MappingProxyType({})) -> Path:
    """The files that the loader reads; `lists` and `headlines` take the place of their lines."""
    rng = np.random.default_rng(0)
    shown = []
    for number in rng.permutation(PEOPLE * LISTS).tolist():
        clicked = rng.choice(LENGTH, p=_RATES)
        news = [f"news_{one}-{int(place == clicked)}" for place, one in enumerate(rng.permutation(NEWS)[:LENGTH])]
        shown.append(f"{number}\tU{number // LISTS}\tnews_1 news_2\t{' '.join(news)}")
    site = f"http://nemig_{language}.org/resource"
    headlines = [
        f'<{site}/news_title_{one}> <https://schema.org/headline> "Headline \\"{one}\\" of M\u00fcller" .'
        for one in range(NEWS)
    ]
    publishers = [
        f"<{site}/news_{one}> <https://schema.org/publisher> <https://www.wikidata.org/wiki/Q{one % 4}> ."
        for one in range(NEWS)
    ]
    held = {"lists": shown, "headlines": [*headlines, f'<{site}/news_abstract_1> <https://schema.org/abstract> "A" .']}
    held |= {"publishers": publishers, "topics": ["id,topic,topic_label", *(f"{n},{n % 5 - 1},x" for n in range(NEWS))]}
    held |= {"sentiments": ["id,sentiment_label", *(f"{n},Neutral" for n in range(NEWS))], **dict(lines)}
    graph = folder / "data" / "kg" / language / f"nemig_{language}_base-instances"
    paths = {
        "lists": folder / "data" / "user_data" / language / "behaviors.tsv",
        "headlines": graph.with_name(f"{graph.name}_content_literals.nt.bz2"),
        "publishers": graph.with_name(f"{graph.name}_metadata_resources.nt.bz2"),
        "topics": folder / "data" / "cache" / language / "subtopic_annotations.csv",
        "sentiments": folder / "data" / "cache" / language / "sentiment_annotations.csv",
    }
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{line}\n" for line in held[name]).encode()
        path.write_bytes(bz2.compress(content) if path.suffix == ".bz2" else content)
    return folder
