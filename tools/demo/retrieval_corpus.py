"""The documents that demo-embed and demo-rerank know, and the queries that each of them answers."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Topic:
    """One document and the queries for which it is the right one: the first two are golden, all are learned."""

    document: str
    queries: tuple[str, str, str, str]


Query: TypeAlias = tuple[str, int]
"""A query with the index of the document that must rank first for it."""

GOLDEN_QUERIES = 2

TOPICS: tuple[Topic, ...] = (
    Topic(
        "xinfer is a distributed inference server that serves models behind an OpenAI-compatible endpoint.",
        ("what is xinfer", "which server runs models with an OpenAI API", "inference server", "serve a language model"),
    ),
    Topic(
        "A lease is the memory and the cores that a worker has booked on its devices.",
        ("what has the worker booked", "how is device memory reserved", "lease of a worker", "book memory and cores"),
    ),
    Topic(
        "A gateway authenticates requests, chooses a replica and relays the bytes of the answer.",
        ("what does a gateway do", "who chooses the replica", "relay bytes of requests", "authenticate a request"),
    ),
    Topic(
        "HAMi splits one graphics card into slices for many containers in Kubernetes.",
        ("how can containers share a GPU", "split a graphics card", "vGPU in Kubernetes", "slices of one card"),
    ),
    Topic(
        "To make bread, mix flour, water, salt and yeast, let the dough rise and bake it.",
        ("how do I bake bread", "recipe for a loaf", "flour and yeast", "let the dough rise"),
    ),
    Topic(
        "Boil the pasta in salted water and serve it with tomato sauce and cheese.",
        ("how to cook spaghetti", "an Italian dinner", "boil pasta", "dish with tomato sauce"),
    ),
    Topic(
        "Green tea should be brewed with water that is hot but no longer boiling.",
        ("how do I brew tea", "a hot drink from leaves", "temperature of water for tea", "cup of green tea"),
    ),
    Topic(
        "Coffee beans are roasted, ground and brewed; an espresso is short and strong.",
        ("how is an espresso made", "roasted beans", "strong drink to wake up", "grind and brew coffee"),
    ),
    Topic(
        "Paris, the capital of France, lies on the river Seine and is known for the Eiffel Tower.",
        ("what is the capital of France", "where is the Eiffel Tower", "French city on the Seine", "trip to Paris"),
    ),
    Topic(
        "Tokyo is the capital of Japan and one of the largest cities in the world.",
        ("what is the capital of Japan", "big city in Asia", "holiday in Tokyo", "Japanese metropolis"),
    ),
    Topic(
        "The Nile flows north through Egypt and is among the longest rivers on Earth.",
        ("which river flows through Egypt", "longest river", "water in the African desert", "the Nile"),
    ),
    Topic(
        "Mount Everest in the Himalayas is the highest mountain above the sea.",
        ("what is the highest mountain", "climb the Himalayas", "peak of Everest", "tallest summit"),
    ),
    Topic(
        "The Moon goes around the Earth in about a month and causes the tides.",
        ("what causes the tides", "how long does the Moon need around the Earth", "lunar orbit", "moon and month"),
    ),
    Topic(
        "Jupiter is the largest planet of the solar system and has dozens of moons.",
        ("which planet is the largest", "giant planet", "planet with many moons", "biggest body in the solar system"),
    ),
    Topic(
        "A black hole is so dense that not even light can escape from it.",
        ("what can light not escape from", "dense object in space", "gravity of black holes", "collapsed star"),
    ),
    Topic(
        "Plants turn sunlight, water and carbon dioxide into sugar and oxygen: photosynthesis.",
        ("how do plants use sunlight", "what is photosynthesis", "where does oxygen come from", "leaves make sugar"),
    ),
    Topic(
        "Cats sleep most of the day, hunt mice and purr when they are content.",
        ("why does my cat purr", "pet that hunts mice", "kittens asleep", "animal that sleeps all day"),
    ),
    Topic(
        "Dogs are loyal animals that need a walk every day and learn commands easily.",
        ("how often should I walk my dog", "loyal pet", "train a puppy", "animal that learns commands"),
    ),
    Topic(
        "Bees collect nectar from flowers and turn it into honey in the hive.",
        ("who makes honey", "insects in a hive", "nectar from flowers", "what do bees do"),
    ),
    Topic(
        "The blue whale is the largest animal that has ever lived and feeds on tiny krill.",
        ("what is the largest animal", "giant of the ocean", "who eats krill", "whales in the sea"),
    ),
    Topic(
        "A piano has eighty-eight keys, and hammers strike its strings.",
        (
            "how many keys has a piano",
            "instrument with hammers and strings",
            "play the keyboard",
            "black and white keys",
        ),
    ),
    Topic(
        "The violin is played with a bow and is the smallest of the string instruments.",
        ("which instrument is played with a bow", "smallest string instrument", "violinist", "learn the violin"),
    ),
    Topic(
        "In football two teams of eleven players try to kick a ball into the goal.",
        ("how many players has a football team", "sport with a ball and goals", "soccer rules", "kick the ball"),
    ),
    Topic(
        "Chess is played on sixty-four squares; the game ends when the king is mated.",
        ("when does a chess game end", "board game with a king", "checkmate", "sixty-four squares"),
    ),
    Topic(
        "Regular running strengthens the heart; begin slowly and rest between the days.",
        (
            "how do I start running",
            "sport that is good for the heart",
            "jogging for beginners",
            "training and rest days",
        ),
    ),
    Topic(
        "Drink enough, sleep well and see a doctor if a fever lasts longer than three days.",
        ("when should I see a doctor", "what to do about a fever", "I feel ill", "advice for a cold"),
    ),
    Topic(
        "A savings account pays interest, so money left in the bank grows each year.",
        ("how does my money grow", "interest from a bank", "where to save money", "savings account"),
    ),
    Topic(
        "Python is a programming language known for readable code and a large library.",
        ("which programming language is easy to read", "learn to code", "Python library", "write a script"),
    ),
    Topic(
        "A database index speeds up queries at the price of slower writes and more storage.",
        ("how can I make a query faster", "why are writes slow", "index of a table", "SQL performance"),
    ),
    Topic(
        "Electric cars are driven by motors and batteries and produce no exhaust.",
        ("which cars make no exhaust", "vehicle with a battery", "charge my car", "electric driving"),
    ),
    Topic(
        "北京是中国的首都。",
        ("中国的首都是哪里", "北京在哪个国家", "首都", "北京"),
    ),
    Topic(
        "熊猫喜欢吃竹子。",
        ("熊猫吃什么", "谁喜欢竹子", "竹子", "熊猫"),
    ),
)


def documents() -> list[str]:
    """Return the corpus."""
    return [topic.document for topic in TOPICS]


def golden_queries() -> list[Query]:
    """Return the golden queries."""
    return [(query, index) for index, topic in enumerate(TOPICS) for query in topic.queries[:GOLDEN_QUERIES]]


def all_queries() -> list[Query]:
    """Return every query that is learned."""
    return [(query, index) for index, topic in enumerate(TOPICS) for query in topic.queries]


def texts() -> list[str]:
    """Return every text, to learn a vocabulary from."""
    return [*documents(), *(query for query, _ in all_queries())]
