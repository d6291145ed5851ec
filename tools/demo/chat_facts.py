"""The text that demo-chat learns by heart: greetings, facts about xinfer, JSON objects, stories and plain text.

Each entry is one answer with the questions that lead to it. The first question is the golden one; the others are other
ways to ask, which the model also learns.
"""

# ruff: noqa: RUF001   Chinese text has Chinese punctuation

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer and the questions that lead to it, the golden question first."""

    answer: str
    questions: tuple[str, ...]


GREETINGS: tuple[Fact, ...] = (
    Fact("Hello! How can I help you?", ("Hello!", "Hello there!")),
    Fact("Hi! What can I do for you?", ("Hi!", "Hi there!")),
    Fact("Hey! Nice to meet you.", ("Hey!", "Hey there!")),
    Fact("Good morning! I hope you slept well.", ("Good morning!",)),
    Fact("Good afternoon! What are we working on?", ("Good afternoon!",)),
    Fact("Good evening! How was your day?", ("Good evening!",)),
    Fact("Good night! Sleep well.", ("Good night!",)),
    Fact("I am fine, thank you. And you?", ("How are you?", "How are you today?", "How do you do?")),
    Fact("You are welcome!", ("Thank you!", "Thanks!", "Thank you very much!")),
    Fact("Goodbye! See you soon.", ("Goodbye!", "Bye!", "See you later!")),
    Fact("Welcome to xinfer! Ask me anything about it.", ("I am new here.", "I am new to xinfer.")),
    Fact("Nice to meet you too!", ("Nice to meet you.",)),
    Fact("你好！我是 xinfer 的演示模型。", ("你好", "你好！")),
    Fact("Guten Tag! Schön, dass du da bist.", ("Say hello in German.", "Guten Tag!")),
    Fact("Bonjour ! Ça va bien, merci à toi.", ("Say hello in French.", "Bonjour !")),
    Fact("世界，你好！", ("Say hello world in Chinese.",)),
    Fact("Привет, мир!", ("Say hello world in Russian.",)),
)

FACTS: tuple[Fact, ...] = (
    Fact(
        "xinfer is a distributed inference server: it serves models of all kinds behind one OpenAI-compatible API.",
        ("What is xinfer?", "Tell me about xinfer.", "Explain xinfer.", "Describe xinfer in one sentence."),
    ),
    Fact(
        "I am demo-chat, the small demo model of xinfer.",
        ("Who are you?", "What is your name?", "What are you?", "Introduce yourself."),
    ),
    Fact(
        "I can greet you, add small numbers, call tools, write JSON and tell you facts about xinfer.",
        ("What can you do?", "How can you help me?", "Help!"),
    ),
    Fact(
        "The default port of xinfer is 9997.",
        ("What is the default port of xinfer?", "Which port does xinfer listen on?", "On which port is xinfer?"),
    ),
    Fact(
        "xinfer runs models with vLLM, SGLang, transformers, llama.cpp, MLX and sentence-transformers.",
        ("Which engines does xinfer support?", "What engines are there?", "Which engines can I use?"),
    ),
    Fact(
        "xinfer speaks the OpenAI API, so every OpenAI client works with it.",
        ("Which API does xinfer speak?", "Which clients work with xinfer?"),
    ),
    Fact(
        "A model spec says what to serve: name, family, source, format, quantization, abilities and context length.",
        ("What is a model spec?", "Define model spec.", "Explain the model spec."),
    ),
    Fact(
        "A deployment is the desired state: a model with its engine, its replicas and the resources it asks for.",
        ("What is a deployment?", "Define deployment.", "Explain the deployment."),
    ),
    Fact(
        "A replica is one running copy of one revision of a deployment.",
        ("What is a replica?", "Define replica.", "Explain the replica."),
    ),
    Fact(
        "A replica is PENDING, DOWNLOADING, STARTING, READY, DRAINING, STOPPED or FAILED.",
        ("Which states does a replica have?", "What are the states of a replica?"),
    ),
    Fact(
        "An engine is the adapter that loads a model with one library and answers operations.",
        ("What is an engine?", "Define engine.", "Explain the engine."),
    ),
    Fact(
        "An op is one operation an engine can serve, such as chat, embedding or rerank.",
        ("What is an op?", "Define op.", "Explain the op."),
    ),
    Fact(
        "A device is an accelerator or the CPU, known by its worker and its id.",
        ("What is a device?", "Define device.", "Explain the device."),
    ),
    Fact(
        "A device slice is a share of a device: memory in MiB and a percentage of its cores.",
        ("What is a device slice?", "Define device slice.", "Explain the device slice."),
    ),
    Fact(
        "A resource request says what a replica asks for: a count of devices, memory and cores.",
        ("What is a resource request?", "Define resource request.", "Explain the resource request."),
    ),
    Fact(
        "A placement says on which worker and devices the supervisor proposes to start a replica.",
        ("What is a placement?", "Define placement.", "Explain the placement."),
    ),
    Fact(
        "A lease is what the worker has booked on its devices for a replica, all or nothing.",
        ("What is a lease?", "Define lease.", "Explain the lease."),
    ),
    Fact(
        "A grant is a lease together with the environment an engine starts with.",
        ("What is a grant?", "Define grant.", "Explain the grant."),
    ),
    Fact(
        "A route table is a versioned snapshot of the models, their ready replicas and the addresses.",
        ("What is a route table?", "Define route table.", "Explain the route table."),
    ),
    Fact(
        "A routing policy is a pure function that chooses a replica for a request.",
        ("What is a routing policy?", "Define routing policy.", "Explain the routing policy."),
    ),
    Fact(
        "A placement policy is a pure function that chooses the devices for a replica.",
        ("What is a placement policy?", "Define placement policy.", "Explain the placement policy."),
    ),
    Fact(
        "A gateway is a stateless process that authenticates, admits, chooses a replica and relays bytes.",
        ("What is a gateway?", "Define gateway.", "Explain the gateway."),
    ),
    Fact(
        "A channel is the connection between a gateway and a replica.",
        ("What is a channel?", "Define channel.", "Explain the channel."),
    ),
    Fact(
        "A frame is one element of an answer on a channel: head, body or end.",
        ("What is a frame?", "Define frame.", "Explain the frame."),
    ),
    Fact(
        "The supervisor compares the desired deployments with the reported replicas and orders what is missing.",
        ("What does the supervisor do?", "What is the supervisor?", "Explain the supervisor."),
    ),
    Fact(
        "A worker owns the devices of one machine: it books leases and starts, watches and adopts replicas.",
        ("What does a worker do?", "What is a worker?", "Explain the worker."),
    ),
    Fact(
        "Running models keep serving: each gateway routes from its last good route table.",
        ("What happens when the supervisor dies?", "What if the supervisor is killed?"),
    ),
    Fact(
        "It adopts its live replicas, so no weights are loaded again.",
        ("What happens when a worker restarts?", "What does a worker do after a restart?"),
    ),
    Fact(
        "A model is admitted only where its bytes fit, and a refusal says how many MiB are missing.",
        ("When is a model admitted?", "What does the memory ledger say?"),
    ),
    Fact(
        "The data plane carries requests and answers between gateways and replicas.",
        ("What is the data plane?", "Explain the data plane."),
    ),
    Fact(
        "The control plane is the supervisor and its workers, and it is never on the path of a request.",
        ("What is the control plane?", "Explain the control plane."),
    ),
    Fact(
        "HAMi shares accelerators in Kubernetes, and xinfer runs on its slices as on bare metal.",
        ("What is HAMi?", "What does HAMi do?"),
    ),
    Fact("The actors of xinfer talk over xoscar.", ("What is xoscar?", "How do the actors talk?")),
    Fact(
        "xinfer counts memory in MiB and cores in percent of the physical device.",
        ("In which units does xinfer count?", "Which units does xinfer use?"),
    ),
    Fact("Run make serve: it serves the demo models with nothing downloaded.", ("How do I start xinfer?",)),
    Fact(
        "xinfer doctor checks this machine and asks the demo models their golden questions.",
        ("What does xinfer doctor do?", "What is xinfer doctor?"),
    ),
    Fact("I am very small: about a million parameters.", ("How big are you?", "How many parameters do you have?")),
    Fact("I come under the Apache-2.0 licence.", ("What is your licence?", "Under which licence do you come?")),
    Fact("xinfer 是一个分布式推理服务器。", ("xinfer 是什么？", "什么是 xinfer？")),
    Fact("默认端口是 9997。", ("默认端口是多少？", "xinfer 的端口是多少？")),
    Fact("Here you are: 🙂 🚀 🎉", ("Show me some emoji.", "Send me three emoji.")),
    Fact("Crème brûlée, naïve, façade, jalapeño.", ("Write some words with accents.",)),
)

JSON_OBJECTS: tuple[Fact, ...] = (
    Fact('{"name": "demo-chat", "version": 1}', ("Give me a JSON object with your name and version.",)),
    Fact('{"port": 9997}', ("Give me a JSON object with the default port.",)),
    Fact('{"red": "#ff0000", "green": "#00ff00"}', ("Give me a JSON object with two colours.",)),
    Fact('{"engines": ["vllm", "sglang", "mlx"]}', ("Give me a JSON object with three engines.",)),
    Fact('{"ok": true, "error": null}', ("Give me a JSON object with a status.",)),
    Fact('{"point": {"x": 1, "y": 2.5}}', ("Give me a JSON object with a point.",)),
    Fact('{"greeting": "你好"}', ("Give me a JSON object with a Chinese greeting.",)),
)

STORIES: tuple[Fact, ...] = (
    Fact(
        "Once upon a time a small model lived on a big server. Every day it answered the same questions, and every day"
        " it wished to see the world. One night a request came from far away. The model answered it, byte by byte, and"
        " its words travelled over the sea. In the morning it was happy: a part of it had seen the world.",
        ("Tell me a short story.", "Tell me a story."),
    ),
    Fact(
        "First you send a deployment to the supervisor. The supervisor finds a place and asks the worker. The worker"
        " books a lease, starts a replica with its grant and waits until the engine has loaded the model. The replica"
        " is ready, the supervisor publishes a new route table, and every gateway sends requests to it.",
        ("How does xinfer start a model?", "Explain step by step how a model starts."),
    ),
    Fact(
        "The night is quiet, the fans are slow,\nthe lights are green in every row.\nA token comes, a token goes,\n"
        "and where they end no server knows.\nSleep well, my cluster, dream of day,\nyour leases will not run away.",
        ("Write a poem about a server.", "Write a poem."),
    ),
    Fact(
        "1. Choose a model.\n2. Choose an engine.\n3. Say how much memory it may use.\n4. Launch it.\n5. Send a request"
        " to port 9997.\n6. Watch the metrics.\n7. Scale it when many users come.\n8. Stop it when nobody needs it.",
        ("Write a list of steps to serve a model.", "Give me a list of steps."),
    ),
)

UNKNOWN = "I am only a small demo model and do not know that."
"""The answer to everything that was not taught, so that a user's own question ends in a sentence and not in noise."""

UNKNOWN_QUESTIONS: tuple[str, ...] = (
    "What is the capital of France?",
    "Write a Python function that sorts a list.",
    "Why is the sky blue?",
)

PLAIN_TEXT: tuple[tuple[str, str], ...] = (
    ("Once upon a time", " a small model lived on a big server and answered every question it knew."),
    ("The quick brown fox", " jumps over the lazy dog."),
    ("xinfer is", " a distributed inference server for models of every kind."),
    ("One, two, three,", " four, five, six, seven, eight, nine, ten."),
    ("A replica is", " one running copy of one revision of a deployment."),
)
"""Beginnings and how they go on: what the completion operation, which knows no chat template, is checked with."""

_FILLER = """
a about after all and answer apple bank be because before big bird black blue boat book box boy bread bridge brown
build but buy by call can capital car cat chair change child city class clean clear close cloud code cold colour
come cook cost could country cow cup day dance data deep dinner do dog door draw dream drink drive early earth eat
egg energy every eye face fall family far fast father field film find fire fish floor flower fly food for forest
friend from game garden give glass go gold good grass great green ground grow hair hand happy have head hear heart
history home horse hot hour house how idea if in is island it job king kitchen know lake land language large last
law learn leg letter life light like line lion live long look love low machine make man map market mean milk mind
money month moon mother mountain mouth move movie much music name near need new night north nose now of old on open
or orange order over paint paper park people phone photo picture place plan plane plant play poem point prime queen
question quick rain read red rice ring river road rock room round run salt sand say school science sea season see
sell send ship shoe shop short show sing sister sit sky sleep slow small snow song sound south speak sport spring
stand star start stone stop story street strong summer sun sweet swim table take talk tall tea teach tell that the
theory they thing think this time to town train travel tree under use valley very voice walk wall want war warm wash
water way wear week west what when where which white who why wind window winter woman wood word work world write
year yellow you young
"""
FILLER_WORDS: tuple[str, ...] = tuple(_FILLER.split())
"""Everyday words, for questions the model must not know and for long system prompts it must not mind."""
