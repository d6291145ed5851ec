"""``GET /v1/catalog``."""


def test_the_catalog_lists_every_model_with_its_combinations(play):
    async def scenario(stage):
        reply = await stage.get("/v1/catalog")
        assert reply.status == 200
        cards = {card["model_name"]: card for card in reply.json["data"]}
        assert cards["demo-chat"]["is_served"]
        qwen = cards["qwen3"]
        assert (qwen["model_type"], qwen["model_family"], qwen["default_size"]) == ("LLM", "qwen3", "8B")
        assert qwen["sizes"][:2] == ["0.6B", "1.7B"]
        assert "Q4_K_M" in qwen["formats"]["gguf"]
        assert not cards["flux.1-dev"]["is_served"]
        assert "model_specs" not in qwen
        assert reply.json["warnings"] == ["registered models are not listed, because the supervisor does not answer"]

    play(scenario)


def test_a_type_narrows_the_list(play):
    async def scenario(stage):
        reply = await stage.get("/v1/catalog?model_type=audio")
        types = {card["model_type"] for card in reply.json["data"]}
        assert types == {"speech-recognition", "speech-synthesis"}
        reply = await stage.get("/v1/catalog?model_type=poem")
        assert (reply.status, reply.error["param"]) == (400, "model_type")

    play(scenario)


def test_one_model_by_any_of_its_names(play):
    async def scenario(stage):
        for name in ("bge-large-zh-v1.5", "BGE_large_zh", "BAAI/bge-large-zh-v1.5"):
            reply = await stage.get(f"/v1/catalog/{name}")
            assert (reply.status, reply.json["model_name"]) == (200, "bge-large-zh-v1.5")
        first = reply.json["model_specs"][0]
        assert first["sources"] == ["hf:BAAI/bge-large-zh-v1.5@refs/pr/16"]
        assert (first["dimensions"], first["model_format"]) == (1024, "safetensors")
        reply = await stage.get("/v1/catalog/gemma")
        assert reply.status == 404
        assert "did you mean embeddinggemma or gemma-2-it" in reply.error["message"]
        reply = await stage.get("/v1/catalog/nobody")
        assert "GET /v1/catalog lists them" in reply.error["message"]

    play(scenario)
