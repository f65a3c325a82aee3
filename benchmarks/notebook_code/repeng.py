"""The work that peer_code.py compares, with repeng."""

# ruff: noqa: F821
# load
import torch
from repeng import ControlModel, ControlVector, DatasetEntry
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model = ControlModel(model, [14])
tokenizer = AutoTokenizer.from_pretrained(folder)
# train
pairs = [DatasetEntry(*pair) for pair in zip(positive, negative, strict=True)]
formal = ControlVector.train(model, tokenizer, pairs)
# apply
answers = []
model.set_control(formal, 4.0)
for prompt in prompts:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)
    start = inputs["input_ids"].shape[1]
    answers.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
model.reset()
# apply in a batch
tokenizer.padding_side = "left"
inputs = tokenizer.apply_chat_template(
    [[{"role": "user", "content": prompt}] for prompt in prompts],
    add_generation_prompt=True,
    padding=True,
    return_dict=True,
    return_tensors="pt",
)
model.set_control(formal, 4.0)
ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)
model.reset()
start = inputs["input_ids"].shape[1]
answers = tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
# score
direction = torch.nn.functional.normalize(torch.from_numpy(formal.directions[14]), dim=0)
scores = []
for prompt, response in texts:
    chat = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(before)["input_ids"])
    with torch.no_grad():
        found = model(
            **tokenizer(before + response, return_tensors="pt"), output_hidden_states=True
        )
    scores.append((found.hidden_states[15][0, start:] @ direction).mean().item())
# save
formal.export_gguf(out / "formal.gguf")
formal = ControlVector.import_gguf(out / "formal.gguf")
