from xinfer.engines.vllm.completions import WithoutThoughts


class Engine:
    model = "m"

    def generate(self, *args, **more):
        return args, more


def test_an_answer_begins_at_once_and_all_else_is_the_engines():
    engine = WithoutThoughts(Engine())
    assert engine.generate("prompt", 1, priority=2) == (("prompt", 1), {"reasoning_ended": True, "priority": 2})
    assert engine.model == "m"
