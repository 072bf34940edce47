"""A made-up ad log: 160,000 impressions of 240 creatives, 0.5 % of them clicked, and what is known of the creatives."""

import csv
import json
import random
from pathlib import Path

random.seed(7)
TOPICS = {
    "travel": ("cheap flights", "beach hotels", "city breaks", "rail passes", "mountain huts"),
    "fitness": ("running shoes", "yoga classes", "home rowing", "protein bars", "cycling gear"),
    "finance": ("savings accounts", "car insurance", "index funds", "mortgage advice", "credit cards"),
    "cooking": ("recipe boxes", "knife sets", "spice tins", "pasta courses", "slow cookers"),
    "games": ("puzzle games", "racing games", "board games", "chess lessons", "strategy games"),
    "garden": ("seed boxes", "garden tools", "rose bushes", "rain barrels", "tree nurseries"),
}
CALLS = ("Try {} today", "Save on {}", "New: {} near you", "The best {} of the year", "{} made easy", "Half-price {}")

appeal = [random.gauss(0, 1.2) for _ in range(60)]
creatives = []
for number in range(240):
    campaign = number // 4
    topic = list(TOPICS)[campaign % 6]
    offer = random.choice(TOPICS[topic])
    creatives.append(
        {
            "creative_id": f"cr{number}",
            "campaign": f"campaign-{campaign}",
            "headline": random.choice(CALLS).format(offer).capitalize(),
            "keywords": ";".join(dict.fromkeys([topic, *offer.split()])),
            "budget": round(random.lognormvariate(6, 1.5), 2),
        }
        | {"_topic": topic, "_offer": offer, "_appeal": appeal[campaign]}
    )

rows = []
for cookie in range(4000):
    likes = random.sample(list(TOPICS), 2)
    time = 1_714_550_400 + random.random() * 86_400
    for _ in range(40):
        time += random.expovariate(1 / 43_200)
        ad, position = random.choice(creatives), random.randint(1, 4)
        odds = 0.0023 * 2.718 ** (1.9 * (ad["_topic"] in likes) + ad["_appeal"] - 0.5 * (position - 1))
        clicked = random.random() < odds
        shown = {key: value for key, value in ad.items() if key[0] != "_"}
        rows.append(
            {"ts": int(time * 1000), "cookie": f"c{cookie:04}", **shown}
            | {
                "hour": int(time // 3600 % 24),
                "device": random.choice(("ios", "android", "android", "desktop")),
                "position": position,
                "revenue": round(random.random() * 20, 2) if clicked else 0,
                "clicked": "yes" if clicked else "no",
            }
        )
rows.sort(key=lambda row: row["ts"])
with open("log.csv", "w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)

# What a language model would be asked to write of each creative; here a sentence has to stand for it.
knowledge = Path("knowledge")
knowledge.mkdir(exist_ok=True)
with open(knowledge / "items.jsonl", "w", encoding="utf-8") as file:
    for ad in creatives:
        words = {
            "id": ad["creative_id"],
            "known": False,
            "explicit": f"An ad for {ad['_offer']}, a matter of {ad['_topic']}.",
            "implicit": f"For people who may want {ad['_offer']}.",
            "tags": [ad["_topic"]],
        }
        file.write(json.dumps(words) + "\n")
(knowledge / "users.jsonl").write_text("", encoding="utf-8")
record = {"format": 1, "teacher": "a sentence", "prompt_version": "1", "dataset": "data", "items": 240, "users": 0}
(knowledge / "teach.json").write_text(json.dumps(record), encoding="utf-8")
