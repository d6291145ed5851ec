"""How the demo models are made: what they are taught, how they are trained, how they are written and checked.

One module per question:

* what is taught: `chat_facts` (text), `chat_tools` (tool calls), `chat_examples` (both, as examples),
  `retrieval_corpus` (documents and queries);
* how text becomes tokens: `chat_template`, `chat_tokenizer`, `retrieval_tokenizer`;
* how the models learn: `chat_training`, `embed_training`, `rerank_training`, over `reproducible`;
* what is written: `chat_export`, `chat_gguf`, `artefacts`;
* how it is checked: `chat_check`, `retrieval_check`.

The command over all of them is `tools/demo_models.py`.
"""
